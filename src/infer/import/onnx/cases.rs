//! The node cases of the ONNX standard's own suite, run through import, plan and twins. Folders in the suite's layout
//! (`NAME/model.onnx`, `NAME/test_data_set_0/{input,output}_N.pb`) are named by `EYAS_ONNX_CASES`, separated by ':'.
//!
//! Each case runs twice: with all inputs at run time, and with all but the first float input as constants, which is how
//! exporters write them. A case may be refused; a wrong answer fails.

use super::proto::{DataType, ModelProto, TensorProto};
use super::*;
use crate::infer::plan::lower::{Target, plan_graph};
use crate::infer::plan::step::BufferKind;
use crate::infer::plan::transfer::{gather, scatter};
use std::cell::Cell;
use std::path::PathBuf;

/// Runs a graph with the reference kernels on the CPU's plan.
fn run_twins(graph: &Graph, inputs: &HashMap<String, Tensor>) -> Result<Vec<Tensor>, String> {
    let (plan, _) = plan_graph(graph, Target::CPU).map_err(|e| format!("plan: {}", e[0]))?;
    let mut buffers: Vec<Vec<f32>> = plan.buffers.iter().map(|b| vec![f32::NAN; b.len_elements]).collect();
    for (buffer, memory) in plan.buffers.iter().zip(&mut buffers) {
        if let BufferKind::Constant(tensor) = &buffer.kind {
            memory.copy_from_slice(&tensor.to_f32());
        }
    }
    for (name, view) in &plan.inputs {
        let tensor = inputs.get(name).ok_or_else(|| format!("no value for input '{name}'"))?;
        scatter(&tensor.to_f32(), view, &mut buffers[view.buffer.0]);
    }
    let cells: Vec<&[Cell<f32>]> =
        buffers.iter_mut().map(|b| Cell::from_mut(b.as_mut_slice()).as_slice_of_cells()).collect();
    for step in &plan.steps {
        let of = |views: &[crate::infer::plan::view::View]| views.iter().map(|v| cells[v.buffer.0]).collect::<Vec<_>>();
        step.kernel.run_twin(step, &of(&step.reads), &of(&step.writes));
    }
    let memory: Vec<Vec<f32>> = cells.iter().map(|b| b.iter().map(Cell::get).collect()).collect();
    let outputs = graph.outputs.iter().zip(&plan.outputs).map(|(&id, (_, view))| match &graph.fact(id).constant {
        Some(tensor) => Ok(tensor.clone()),
        None => Tensor::from_f32(&view.shape, gather(&memory[view.buffer.0], view)),
    });
    outputs.collect()
}

/// Why the two differ, if they do: 1e-3 relative and 1e-5 absolute for floats, nothing for the rest.
fn difference(got: &Tensor, want: &Tensor, half: bool) -> Option<String> {
    if got.shape() != want.shape() || got.dtype() != want.dtype() {
        return Some(format!("{got:?} where {want:?} was expected"));
    }
    let relative = if half { 2e-3 } else { 1e-3 };
    let exact = want.dtype() != DType::F32 && want.dtype() != DType::F64;
    let (got, want) = (got.to_f32(), want.to_f32());
    let close = |g: f32, w: f32| {
        (g.is_nan() && w.is_nan())
            || g == w
            || (!exact && (g - w).abs() <= relative * w.abs() + if half { 1e-3 } else { 1e-5 })
    };
    let far: Vec<usize> = (0..want.len()).filter(|&i| !close(got[i], want[i])).collect();
    let &first = far.first()?;
    let largest = want.iter().fold(0f32, |m, w| m.max(w.abs()));
    let worst = got.iter().zip(&want).fold(0f32, |m, (g, w)| m.max((g - w).abs()));
    Some(format!(
        "{} of {} elements differ; element {first} is {}, not {}; at most {worst} where the largest is {largest}",
        far.len(),
        want.len(),
        got[first],
        want[first]
    ))
}

enum Outcome {
    Passed,
    Refused(String),
    Wrong(String),
}

fn read_tensors(folder: &Path, kind: &str) -> Vec<TensorProto> {
    (0..)
        .map(|i| folder.join(format!("test_data_set_0/{kind}_{i}.pb")))
        .take_while(|path| path.exists())
        .map(|path| TensorProto::decode(std::fs::read(path).expect("readable").as_slice()).unwrap_or_default())
        .collect()
}

fn run_case(folder: &Path, constants: bool) -> Outcome {
    let bytes = std::fs::read(folder.join("model.onnx")).expect("model.onnx");
    let mut model = ModelProto::decode(bytes.as_slice()).expect("the suite's models decode");
    let graph = model.graph.as_mut().expect("the suite's models have graphs");
    let mut kept_one = !constants;
    let mut inputs = HashMap::new();
    let given = read_tensors(folder, "input");
    let mut rest = Vec::new();
    for (mut info, mut tensor) in std::mem::take(&mut graph.input).into_iter().zip(given) {
        let float = tensor.data_type == DataType::Float as i32 || tensor.data_type == DataType::Float16 as i32;
        if constants && (kept_one || !float) {
            tensor.name.clone_from(&info.name);
            graph.initializer.push(tensor);
            continue;
        }
        kept_one = true;
        // Shapes of the suite may be symbolic; the tensors say what they are.
        if let Some(shape) = info.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()).and_then(|t| t.shape.as_mut()) {
            shape.dim = tensor
                .dims
                .iter()
                .map(|&d| proto::DimensionProto { value: Some(proto::DimensionValue::Value(d)) })
                .collect();
        }
        match tensors::decode_inline(&tensor) {
            Ok(value) if value.is_empty() => return Outcome::Refused("an input has no elements".into()),
            Ok(value) => inputs.insert(info.name.clone(), value),
            Err(e) => return Outcome::Refused(e),
        };
        rest.push(info);
    }
    graph.input = rest;
    let graph = match import_onnx(model.encode_to_vec().into(), "case", &ImportOptions::default()) {
        Ok(graph) => graph,
        Err(e) => return Outcome::Refused(e.to_string().replace('\n', " ")),
    };
    let got = match run_twins(&graph, &inputs) {
        Ok(got) => got,
        Err(e) => return Outcome::Refused(e),
    };
    for (i, (got, want)) in got.iter().zip(read_tensors(folder, "output")).enumerate() {
        let half = want.data_type == DataType::Float16 as i32;
        match tensors::decode_inline(&want) {
            Ok(want) => {
                if let Some(why) = difference(got, &want, half) {
                    return Outcome::Wrong(format!("output {i}: {why}"));
                }
            }
            Err(e) => return Outcome::Refused(e),
        }
    }
    Outcome::Passed
}

#[test]
fn cases_of_the_standard_are_right_or_refused() {
    let Ok(folders) = std::env::var("EYAS_ONNX_CASES") else {
        eprintln!("SKIPPED: set EYAS_ONNX_CASES to folders of ONNX node cases, separated by ':'");
        return;
    };
    let mut cases: Vec<PathBuf> = folders
        .split(':')
        .flat_map(|f| std::fs::read_dir(f).expect("EYAS_ONNX_CASES names folders").flatten().map(|e| e.path()))
        .filter(|p| p.join("model.onnx").exists())
        .collect();
    cases.sort();
    let mut wrong = 0;
    for constants in [false, true] {
        let (mut passed, mut refused) = (0, 0);
        for case in &cases {
            let name = case.file_name().unwrap_or_default().to_string_lossy();
            let outcome = std::panic::catch_unwind(|| run_case(case, constants));
            match outcome.unwrap_or_else(|_| Outcome::Wrong("PANIC".into())) {
                Outcome::Passed => passed += 1,
                Outcome::Refused(why) => {
                    refused += 1;
                    println!("refused {constants} {name}: {why}");
                }
                Outcome::Wrong(why) => {
                    wrong += 1;
                    println!("WRONG {constants} {name}: {why}");
                }
            }
        }
        println!("constants {constants}: {passed} of {} passed, {refused} refused", cases.len());
    }
    assert!(!cases.is_empty(), "no cases in EYAS_ONNX_CASES");
    assert_eq!(wrong, 0, "wrong answers");
}
