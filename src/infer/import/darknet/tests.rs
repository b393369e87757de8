//! The layers against plain loops in f64, through the twins.

use super::*;
use crate::infer::graph::DarknetLayout;
use crate::infer::plan::lower::{Target, plan_graph};
use crate::infer::plan::step::BufferKind;
use crate::infer::plan::transfer::{gather, scatter};
use std::cell::Cell;

/// Numbers in −0.5..0.5 without a pattern.
fn number(i: usize) -> f32 {
    ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5
}

fn file(floats: &[f32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [0i32, 2, 5, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn import(cfg: &str, floats: &[f32]) -> Result<Graph, ImportError> {
    import_darknet(cfg, &file(floats), "test", &ImportOptions::default())
}

/// Runs the twins of a graph on `number`s; dense outputs.
fn run(graph: &Graph) -> Vec<Vec<f32>> {
    let (plan, _) = plan_graph(graph, Target::CPU).unwrap();
    let mut memory: Vec<Vec<f32>> = plan.buffers.iter().map(|b| vec![f32::NAN; b.len_elements]).collect();
    for (buffer, values) in plan.buffers.iter().zip(&mut memory) {
        if let BufferKind::Constant(tensor) = &buffer.kind {
            values[..tensor.len()].copy_from_slice(&tensor.to_f32());
        }
    }
    for (_, view) in &plan.inputs {
        let dense: Vec<f32> = (0..view.shape.iter().product()).map(number).collect();
        scatter(&dense, view, &mut memory[view.buffer.0]);
    }
    let cells: Vec<Vec<Cell<f32>>> = memory.iter().map(|b| b.iter().copied().map(Cell::new).collect()).collect();
    for step in &plan.steps {
        let of = |views: &[crate::infer::plan::view::View]| -> Vec<&[Cell<f32>]> {
            views.iter().map(|v| cells[v.buffer.0].as_slice()).collect()
        };
        step.kernel.run_twin(step, &of(&step.reads), &of(&step.writes));
    }
    plan.outputs
        .iter()
        .map(|(_, view)| gather(&cells[view.buffer.0].iter().map(Cell::get).collect::<Vec<_>>(), view))
        .collect()
}

fn assert_close(got: &[f32], expected: impl Iterator<Item = f64>) {
    let expected: Vec<f64> = expected.collect();
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        assert!((f64::from(*g) - e).abs() < 1e-5, "element {i}: {g} instead of {e}");
    }
}

const NET: &str = "[net]\nchannels=4\nheight=6\nwidth=5\n";

/// Input value of channel, row, column; `None` outside.
fn x(c: usize, y: isize, x: isize) -> Option<f64> {
    let inside = (0..6).contains(&y) && (0..5).contains(&x);
    inside.then(|| f64::from(number((c * 6 + y as usize) * 5 + x as usize)))
}

fn positions(c: usize, h: usize, w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..c).flat_map(move |k| (0..h).flat_map(move |j| (0..w).map(move |i| (k, j, i))))
}

#[test]
fn max_pool_of_two_with_stride_one_looks_right_and_down() {
    let got = run(&import(&format!("{NET}[maxpool]\nsize=2\nstride=1"), &[]).unwrap());
    let expected = positions(4, 6, 5).map(|(k, j, i)| {
        let near = [(0, 0), (0, 1), (1, 0), (1, 1)];
        near.iter().filter_map(|(b, a)| x(k, j as isize + b, i as isize + a)).fold(f64::MIN, f64::max)
    });
    assert_close(&got[0], expected);
}

#[test]
fn depthwise_five_by_five_with_batch_norm() {
    let [b, s, m, v] = [0.5, 1.5, 0.25, 2.0];
    let mut floats: Vec<f32> = [b, s, m, v].iter().flat_map(|&a| [a; 4]).collect();
    floats.extend((0..100).map(|i| number(i + 500)));
    let cfg = format!(
        "{NET}[convolutional]\nfilters=4\ngroups=4\nsize=5\nstride=2\npad=1\nbatch_normalize=1\nactivation=leaky"
    );
    let got = run(&import(&cfg, &floats).unwrap());
    let expected = positions(4, 3, 3).map(|(k, j, i)| {
        let sum: f64 = positions(1, 5, 5)
            .map(|(_, dy, dx)| {
                let weight = f64::from(number(500 + k * 25 + dy * 5 + dx));
                weight * x(k, (j * 2 + dy) as isize - 2, (i * 2 + dx) as isize - 2).unwrap_or(0.0)
            })
            .sum();
        let y = f64::from(s) * (sum - f64::from(m)) / (f64::from(v) + 1e-5).sqrt() + f64::from(b);
        if y > 0.0 { y } else { 0.1 * y }
    });
    assert_close(&got[0], expected);
}

#[test]
fn shortcuts_add_the_channels_that_both_have() {
    // Layer 0 has 2 channels, layer 1 all 4.
    let narrow = format!("{NET}[route]\nlayers=0\n");
    assert!(import(&narrow, &[]).is_err(), "a layer cannot name itself");
    let cfg = format!(
        "{NET}[dropout]\n[route]\nlayers=0\ngroups=2\ngroup_id=1\n[route]\nlayers=0\n[shortcut]\nfrom=1\n\
         activation=relu\n[route]\nlayers=1\n[shortcut]\nfrom=0\n[route]\nlayers=3,5"
    );
    let got = run(&import(&cfg, &[]).unwrap());
    let expected = positions(6, 6, 5).map(|(k, j, i)| {
        let at = |k: usize| x(k, j as isize, i as isize).unwrap();
        match k {
            0 | 1 => (at(k) + at(k + 2)).max(0.0),
            2 | 3 => at(k).max(0.0),
            _ => at(k - 4 + 2) + at(k - 4),
        }
    });
    assert_close(&got[0], expected);
}

#[test]
fn both_reorgs_follow_their_loops() {
    let net = "[net]\nchannels=4\nheight=6\nwidth=4\n";
    let (c, h, w, s) = (4, 6, 4, 2);
    let got = run(&import(&format!("{net}[reorg]\nstride=2"), &[]).unwrap());
    let mut expected = vec![0.0; c * h * w];
    for (k, j, i) in positions(c, h, w) {
        let (c2, offset) = (k % (c / (s * s)), k / (c / (s * s)));
        let (column, row) = (i * s + offset % s, j * s + offset / s);
        expected[i + w * (j + h * k)] = f64::from(number(column + w * s * (row + h * s * c2)));
    }
    assert_close(&got[0], expected.into_iter());
    let got = run(&import(&format!("{net}[reorg3d]\nstride=2"), &[]).unwrap());
    let expected = positions(c * s * s, h / s, w / s).map(|(k, j, i)| {
        let offset = k / c;
        f64::from(number(((k % c) * h + j * s + offset / s) * w + i * s + offset % s))
    });
    assert_close(&got[0], expected);
}

#[test]
fn the_other_layers_compute_what_they_say() {
    // Batch-norm alone, squeeze and excite, upsampling with a scale, a fully connected layer, softmax.
    let cfg = format!(
        "{NET}[batchnorm]\n[avgpool]\n[scale_channels]\nfrom=0\nactivation=logistic\n[upsample]\nscale=3\n[connected]\n\
         output=2\nactivation=linear\n[softmax]\ngroups=1"
    );
    let norm = [[0.1; 4], [1.5; 4], [0.2; 4], [0.5; 4]].concat();
    let connected: Vec<f32> = (0..2 + 2 * 4 * 120).map(|i| 0.02 * number(i + 77)).collect();
    let floats = [norm, connected.clone()].concat();
    let got = run(&import(&cfg, &floats).unwrap());
    let normed = |k, j, i| {
        1.5 * (x(k, j as isize, i as isize).unwrap() - f64::from(0.2f32)) / (0.5f64 + 1e-5).sqrt() + f64::from(0.1f32)
    };
    let mean = |k| positions(1, 6, 5).map(|(_, j, i)| normed(k, j, i)).sum::<f64>() / 30.0;
    let scaled = |k, j, i| 3.0 / (1.0 + (-mean(k) * normed(k, j, i)).exp());
    let logits = [0, 1].map(|o| {
        let dot: f64 = positions(4, 12, 10)
            .map(|(k, j, i)| f64::from(connected[2 + o * 480 + (k * 12 + j) * 10 + i]) * scaled(k, j / 2, i / 2))
            .sum();
        dot + f64::from(connected[o])
    });
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    assert_close(&got[0], logits.into_iter().map(|l| l.exp() / sum));
}

#[test]
fn shared_weights_are_read_once() {
    let cfg = format!("{NET}[conv]\nfilters=4\nactivation=linear\n[conv]\nfilters=4\nactivation=relu\nshare_index=0");
    let floats: Vec<f32> = (0..20).map(number).collect();
    let graph = import(&cfg, &floats).unwrap();
    assert_eq!(graph.nodes[0].inputs[1..], graph.nodes[1].inputs[1..]);
    assert!(import(&cfg, &[floats.clone(), floats].concat()).unwrap_err().to_string().contains("20 are left over"));
}

#[test]
fn heads_become_outputs() {
    let yolo = "[yolo]\nclasses=2\nnum=4\nanchors=10,14, 23,27, 37,58, 81,82\n";
    let cfg = format!(
        "{NET}[conv]\nfilters=14\nactivation=linear\n{yolo}mask=2,3\n[route]\nlayers=-2\n[upsample]\n[conv]\nfilters=14\n\
         activation=logistic\n{yolo}mask=0,1\nscale_x_y=2.0\nnew_coords=1\n"
    );
    let floats = vec![0.5; 14 * 5 + 14 * 15];
    let graph = import(&cfg, &floats).unwrap();
    let names: Vec<&str> = graph.outputs.iter().map(|&v| graph.value(v).name.as_str()).collect();
    assert_eq!(names, ["convolutional_0", "convolutional_4"]);
    assert_eq!(graph.fact(graph.inputs[0]).shape, [1, 4, 6, 5]);
    assert_eq!(graph.fact(graph.outputs[1]).shape, [1, 14, 12, 10]);
    let [first, second] = graph.darknet_heads.as_slice() else { panic!() };
    let yolo = |anchors_px: [[f32; 2]; 2], scale_x_y, new_coords| {
        let anchors_px = anchors_px.to_vec();
        DarknetLayout::Yolo { anchors_px, scale_x_y, new_coords }
    };
    assert_eq!(first.layout, yolo([[37.0, 58.0], [81.0, 82.0]], 1.0, false));
    assert_eq!(second.layout, yolo([[10.0, 14.0], [23.0, 27.0]], 2.0, true));
    assert_eq!((first.classes, second.output), (2, graph.outputs[1]));
    let options = ImportOptions { size_px: Some([32, 64]), ..ImportOptions::default() };
    let graph = import_darknet(&cfg, &file(&floats), "x", &options).unwrap();
    assert_eq!(graph.fact(graph.inputs[0]).shape, [1, 4, 64, 32]);
}

#[test]
fn damaged_cfgs_never_panic() {
    let cfg = format!(
        "{NET}[conv]\nfilters=6\nsize=3\npad=1\nactivation=mish\n[maxpool]\nsize=2\nstride=1\n[route]\nlayers=-1,0\n\
         groups=2\ngroup_id=1\n[shortcut]\nfrom=-3\n[upsample]\nstride=2\n[reorg3d]\nstride=2\n[connected]\noutput=7\n\
         [yolo]\nclasses=2\nanchors=1,2\n[route]\nlayers=2\n[batchnorm]\n[avgpool]\n[softmax]\ngroups=3\n"
    );
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut built = 0;
    for _ in 0..4000 {
        let mut bytes = cfg.clone().into_bytes();
        for _ in 0..1 + random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = b"0123456789-,[]=#\n.e"[random(19)],
                1 => bytes.insert(at, b"0123456789-"[random(11)]),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        let Ok(sections) = cfg::parse(&text) else { continue };
        let Ok(network) = Network::read(&sections, "x", None) else { continue };
        let Some([floats, _]) = network.floats().filter(|f| f[0] < 100_000) else { continue };
        built += usize::from(import(&text, &vec![1.0; floats]).is_ok());
    }
    assert!(built > 200, "only {built} of the damaged files could still be built");
}

const NORMS: &str = "[net]\nwidth=2\nheight=2\nchannels=2\n[conv]\nfilters=2\nbatch_normalize=1\nactivation=linear\n\
                     [batchnorm]\n[connected]\noutput=3\nbatch_normalize=1\nactivation=linear\n";

#[test]
fn batch_norm_is_folded_in_the_order_of_the_file() {
    let conv = [
        10.0, 20.0, // biases
        2.0, 4.0, // scales
        1.0, -1.0, // mean
        0.25, 4.0, // variance
        1.0, 2.0, 3.0, 4.0, // weights
    ];
    let norm = [0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
    let mut connected = vec![1.0, 2.0, 3.0]; // biases
    connected.extend((0..24).map(|i| i as f32)); // weights
    connected.extend([1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let floats: Vec<f32> = conv.iter().chain(&norm).chain(&connected).copied().collect();
    for transposed in [false, true] {
        let mut bytes = file(&floats);
        if transposed {
            bytes[4..8].copy_from_slice(&1001i32.to_le_bytes());
        }
        let graph = import_darknet(NORMS, &bytes, "x", &ImportOptions::default()).unwrap();
        let constant = |name: &str| {
            let value = graph.values.iter().find(|v| v.name == name).unwrap();
            value.fact.constant.as_ref().unwrap().to_f32().to_vec()
        };
        let s = [2.0 / 0.25001f64.sqrt(), 4.0 / 4.00001f64.sqrt()];
        let expected = [s[0], 2.0 * s[0], 3.0 * s[1], 4.0 * s[1]];
        for (w, e) in constant("convolutional_0.weights").iter().zip(expected) {
            assert!((f64::from(*w) - e).abs() < 1e-6 * e);
        }
        let bias = constant("convolutional_0.bias");
        assert!((f64::from(bias[0]) - (10.0 - s[0])).abs() < 1e-5);
        assert!((f64::from(bias[1]) - (20.0 + s[1])).abs() < 1e-5);
        assert_eq!(constant("batchnorm_1.shift"), [0.5, 0.5]);
        let unit = f64::from(1.0 / 1.00001f32.sqrt());
        let weights = constant("connected_2.weights");
        // Row 1 of [3][8], or column 1 of [8][3].
        let second = if transposed { 4.0 } else { 9.0 };
        assert!((f64::from(weights[9]) - second * unit).abs() < 1e-4);
        assert!((f64::from(weights[16]) - if transposed { 4.0 } else { 32.0 } * unit).abs() < 1e-4);
        assert_eq!(constant("connected_2.bias"), [1.0, 2.0, 3.0]);
    }
}

#[test]
fn a_negative_variance_is_refused() {
    let error = import(NORMS, &[-1.0; 56]).unwrap_err().to_string();
    assert!(error.contains("convolutional_0: channel 0"), "{error}");
}
