//! SSD whose file ends in offsets from priors, or in fractions of the input. Decoded by `ssd`.
//!
//! `ssd_raw`: `loc [1, P, 4]` straight from convolutions and `conf [1, P, C+1]` (softmaxed or not, column 0 is the
//! background). Shapes do not tell the priors, so the file must hold them: as an output that is a constant, or as the only
//! other constant of that shape. `[P, 4]`, centre and size or corners, as fractions of the input or in pixels, which
//! the numbers show; or as Caffe's PriorBox writes them, `[1, 2, 4·P]`: corners, then variances. Otherwise the
//! variances are 0.1 and 0.2. Without priors the network is refused.
//!
//! `ssd_decoded`: `scores [1, P, C+1]`, softmaxed, and `boxes [1, P, 4]`, corners as fractions of the input.
//! Liu et al., "SSD", arXiv 1512.02325.

use super::priors::Priors;
use super::ssd::{Activation, BoxCode, Ssd, VARIANCES};
use crate::convert::ChannelOrder;
use crate::decode::head::{Fitted, Signature};
use crate::decode::labels::Labels;
use crate::infer::graph::ValueId;
use crate::letterbox::Fit;

/// Largest fraction of the input that a prior may reach; larger numbers are pixels.
const MAX_FRACTION: f32 = 2.0;

/// SSD: stretched, RGB, levels minus (123, 117, 104).
pub fn fit_raw(signature: &Signature<'_>) -> Result<Fitted, String> {
    let is_constant = |o: usize| signature.graph.fact(signature.graph.outputs[o]).constant.is_some();
    let tables: Vec<usize> = (0..signature.outputs.len()).filter(|&o| !is_constant(o)).collect();
    let [a, b] = tables[..] else {
        return Err(format!("it needs loc [1, P, 4] and conf [1, P, C+1], but there are {}", signature.describe()));
    };
    let wrong = || format!("it needs loc [1, P, 4] and conf [1, P, C+1], but there are {}", signature.describe());
    let is_raw = |o: usize| signature.outputs[o].1.last() == Some(&4) && signature.origins(o).contains(&"Conv");
    let is_softmax = |o: usize| signature.origins(o).contains(&"Softmax");
    let (boxes, scores) = match (is_raw(a) && !is_softmax(a), is_raw(b) && !is_softmax(b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        (true, true) => return Err("of its two outputs either could be the boxes".to_string()),
        (false, false) => return Err("no output [1, P, 4] comes straight from convolutions".to_string()),
    };
    let (&[1, anchors, 4], &[1, n, columns]) = (signature.outputs[boxes].1, signature.outputs[scores].1) else {
        return Err(wrong());
    };
    if n != anchors || n == 0 || columns < 2 {
        return Err(wrong());
    }
    let activation = match &signature.origins(scores)[..] {
        all if all.contains(&"Softmax") => Activation::None,
        all if all.contains(&"Sigmoid") => return Err("its scores are logistic, without a background".to_string()),
        _ => Activation::Softmax,
    };
    signature.check_classes(columns - 1)?;
    let (priors, variances) = find_priors(signature, anchors)?;
    let head = Ssd {
        first_class: 1,
        activation,
        code: BoxCode::Exponential { variances },
        priors: Priors::Listed(priors),
        ..Ssd::decoded(scores, boxes, anchors, columns - 1)
    };
    Ok(fitted(head, ([123.0, 117.0, 104.0], [1.0; 3])))
}

/// SSD as written by repositories that decode in the graph: stretched, RGB, (level − 127) / 128.
pub fn fit_decoded(signature: &Signature<'_>) -> Result<Fitted, String> {
    let find = |name: &str| signature.output(name).ok_or_else(|| format!("it has no output called '{name}'"));
    let (scores, boxes) = (find("scores")?, find("boxes")?);
    let (&[1, anchors, columns], &[1, n, 4], 2) =
        (signature.outputs[scores].1, signature.outputs[boxes].1, signature.outputs.len())
    else {
        return Err(format!("it needs scores [1, P, C+1] and boxes [1, P, 4], but there are {}", signature.describe()));
    };
    if n != anchors || n == 0 || columns < 2 {
        return Err(format!("it needs as many scores as boxes, but there are {}", signature.describe()));
    }
    if signature.origins(boxes).contains(&"Conv") {
        return Err("its boxes are not decoded in the graph".to_string());
    }
    if !signature.named
        && (!signature.origins(scores).contains(&"Softmax") || super::ssd::fit_ultraface(signature).is_ok())
    {
        return Err("its scores are not those of a softmax, or its boxes those of Ultra-Light-Fast".to_string());
    }
    signature.check_classes(columns - 1)?;
    let unit_px = [signature.width as f32, signature.height as f32];
    let head =
        Ssd { first_class: 1, code: BoxCode::Corners { unit_px }, ..Ssd::decoded(scores, boxes, anchors, columns - 1) };
    Ok(fitted(head, ([127.0; 3], [128.0; 3])))
}

fn fitted(head: Ssd, (mean, std): ([f32; 3], [f32; 3])) -> Fitted {
    Fitted {
        labels: Labels::usual(head.classes),
        head: Box::new(head),
        fit: Fit::Stretch,
        order: ChannelOrder::Rgb,
        mean,
        std,
        score_threshold: 0.4,
        iou_threshold: 0.45,
    }
}

/// The priors that the file holds, centre and size in pixels of the input, and their variances.
fn find_priors(signature: &Signature<'_>, anchors: usize) -> Result<(Vec<[f32; 4]>, [f32; 2]), String> {
    let graph = signature.graph;
    let fits = |&id: &ValueId| {
        let shape = &graph.fact(id).shape;
        let numbers = anchors.saturating_mul(4);
        let known = [&[anchors, 4][..], &[1, anchors, 4], &[1, 2, numbers], &[2, numbers]];
        graph.fact(id).constant.is_some() && known.contains(&&shape[..])
    };
    let mut found: Vec<ValueId> = graph.outputs.iter().copied().filter(fits).collect();
    if found.is_empty() {
        found = (0..graph.values.len()).map(ValueId).filter(fits).collect();
    }
    let id = match found[..] {
        [id] => id,
        [] => {
            return Err(format!(
                "its boxes are offsets from {anchors} priors, which the file does not hold: export it with them as an \
                 output [{anchors}, 4], or with decoded boxes"
            ));
        }
        _ => {
            let names: Vec<&str> = found.iter().map(|&id| graph.value(id).name.as_str()).collect();
            return Err(format!("several of its constants could be the priors: {}", names.join(", ")));
        }
    };
    let name = &graph.value(id).name;
    let numbers = graph.fact(id).constant.as_ref().and_then(|t| t.as_f32());
    let numbers = numbers.ok_or_else(|| format!("its priors '{name}' are no f32"))?;
    let (rows, rest) =
        numbers.split_at_checked(4 * anchors).ok_or_else(|| format!("its priors '{name}' are too few"))?;
    let variances = match rest.as_chunks::<4>().0 {
        [] => VARIANCES,
        [first @ [c, d, s, t], others @ ..] if c == d && s == t && others.iter().all(|v| v == first) => [*c, *s],
        _ => return Err(format!("the variances in '{name}' differ from prior to prior")),
    };
    let rows = rows.as_chunks::<4>().0;
    if rows.iter().flatten().chain(&variances).any(|v| !v.is_finite()) {
        return Err(format!("its priors '{name}' are not finite"));
    }
    let are_corners = rows.iter().all(|[x0, y0, x1, y1]| x1 > x0 && y1 > y0);
    if !are_corners && (!rest.is_empty() || rows.iter().any(|[_, _, w, h]| *w <= 0.0 || *h <= 0.0)) {
        return Err(format!("its priors '{name}' are neither centre and size nor corners"));
    }
    let [w, h] = match rows.iter().flatten().any(|&v| v > MAX_FRACTION) {
        true => [1.0; 2],
        false => [signature.width as f32, signature.height as f32],
    };
    let priors = rows
        .iter()
        .map(|&[a, b, c, d]| match are_corners {
            true => [(a + c) / 2.0 * w, (b + d) / 2.0 * h, (c - a) * w, (d - b) * h],
            false => [a * w, b * h, c * w, d * h],
        })
        .collect();
    Ok((priors, variances))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Expected, Table, assert_same, decode, graph, noise};
    use crate::decode::head::recognise;
    use crate::infer::graph::Graph;
    use crate::infer::tensor::Tensor;

    const CENTRES: [[f32; 4]; 3] = [[0.25, 0.5, 0.5, 0.25], [0.75, 0.75, 0.25, 0.5], [0.5, 0.25, 1.25, 0.125]];

    fn network(conf_by: &'static str, priors: Option<(&[usize], Vec<f32>)>) -> Graph {
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("loc", &[1, 3, 4], &["Conv", "Conv"]), ("conf", &[1, 3, 6], &[conf_by])];
        let mut g = graph(96, 64, &outputs);
        if let Some((shape, values)) = priors {
            let id = g.add_constant("priors", &Tensor::from_f32(shape, values).unwrap());
            g.outputs.push(id);
        }
        g
    }

    fn corners() -> Vec<f32> {
        CENTRES.iter().flat_map(|[x, y, w, h]| [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]).collect()
    }

    #[test]
    fn priors_of_every_form() {
        let centres = CENTRES.as_flattened().to_vec();
        let pixels: Vec<f32> =
            CENTRES.iter().flat_map(|[x, y, w, h]| [x * 96.0, y * 64.0, w * 96.0, h * 64.0]).collect();
        let caffe: Vec<f32> = corners().into_iter().chain([0.125, 0.125, 0.25, 0.25].repeat(3)).collect();
        for (conf_by, shape, values, variances) in [
            ("Softmax", &[3, 4][..], centres.clone(), [0.1, 0.2]),
            ("Conv", &[1, 3, 4], centres, [0.1, 0.2]),
            ("Conv", &[3, 4], pixels, [0.1, 0.2]),
            ("Conv", &[3, 4], corners(), [0.1, 0.2]),
            ("Softmax", &[1, 2, 12], caffe, [0.125, 0.25]),
        ] {
            let r = recognise(&network(conf_by, Some((shape, values))), None).unwrap();
            assert_eq!((r.name, r.head.classes(), r.head.priors().len()), ("ssd_raw", 5, 3));
            let mut next = noise(11);
            let tables = [
                Table::new(&[1, 3, 4], |_| next() * 4.0 - 2.0),
                Table::new(&[1, 3, 6], |_| next() * 5.0 - 2.0),
                Table::new(shape, |_| 0.0),
            ];
            let mut expected: Vec<Expected> = Vec::new();
            for (a, prior) in CENTRES.iter().enumerate() {
                let [x, y, w, h] = prior.map(f64::from);
                let v = |table: usize, k: usize| tables[table].at(&[0, a, k]);
                let sum: f64 = (0..6).map(|c| v(1, c).exp()).sum();
                let p = |c: usize| if conf_by == "Conv" { v(1, c).exp() / sum } else { v(1, c) };
                let best = (1..6).max_by(|&a, &b| p(a).total_cmp(&p(b))).unwrap();
                let (cx, cy) = (x + v(0, 0) * variances[0] * w, y + v(0, 1) * variances[0] * h);
                let (bw, bh) = (w * (v(0, 2) * variances[1]).exp(), h * (v(0, 3) * variances[1]).exp());
                if p(best) >= 0.1 {
                    let b = [cx - bw / 2.0, cy - bh / 2.0, cx + bw / 2.0, cy + bh / 2.0];
                    expected.push((a, best - 1, p(best), [b[0] * 96.0, b[1] * 64.0, b[2] * 96.0, b[3] * 64.0]));
                }
            }
            assert_same(&decode(&*r.head, &tables, 0.1, false), &expected, 0.1);
        }
    }

    #[test]
    fn without_priors_it_is_refused() {
        let refusal = |g: &Graph| recognise(g, Some("ssd_raw")).unwrap_err().to_string();
        let error = refusal(&network("Softmax", None));
        assert!(error.contains("offsets from 3 priors, which the file does not hold"), "{error}");
        assert!(recognise(&network("Softmax", None), None).is_err());
        let mut twice = network("Softmax", None);
        for name in ["a", "b"] {
            twice.add_constant(name, &Tensor::from_f32(&[3, 4], corners()).unwrap());
        }
        assert!(refusal(&twice).contains("several of its constants could be the priors: a, b"));
        let nan = vec![f32::NAN; 12];
        assert!(refusal(&network("Softmax", Some((&[3, 4], nan)))).contains("not finite"));
        let flat = vec![0.0; 12];
        assert!(refusal(&network("Softmax", Some((&[3, 4], flat)))).contains("neither centre and size nor corners"));
        let mut uneven: Vec<f32> = corners().into_iter().chain([0.1, 0.1, 0.2, 0.2].repeat(3)).collect();
        uneven[23] = 0.3;
        assert!(refusal(&network("Softmax", Some((&[1, 2, 12], uneven)))).contains("differ from prior to prior"));
        assert!(refusal(&network("Sigmoid", Some((&[3, 4], corners())))).contains("without a background"));
    }

    #[test]
    fn decoded_in_the_graph() {
        let outputs: [(&str, &[usize], &[&'static str]); 2] =
            [("scores", &[1, 30, 4], &["Softmax"]), ("boxes", &[1, 30, 4], &["Sub", "Add"])];
        let r = recognise(&graph(96, 64, &outputs), None).unwrap();
        assert_eq!((r.name, r.head.classes()), ("ssd_decoded", 3));
        let mut next = noise(5);
        let tables = [Table::new(&[1, 30, 4], |_| next()), Table::new(&[1, 30, 4], |_| next())];
        let mut expected: Vec<Expected> = Vec::new();
        for a in 0..30 {
            let p = |c: usize| tables[0].at(&[0, a, c]);
            let best = (1..4).max_by(|&a, &b| p(a).total_cmp(&p(b))).unwrap();
            if p(best) >= 0.6 {
                let b = |k: usize| tables[1].at(&[0, a, k]) * if k.is_multiple_of(2) { 96.0 } else { 64.0 };
                expected.push((a, best - 1, p(best), [b(0), b(1), b(2), b(3)]));
            }
        }
        assert_same(&decode(&*r.head, &tables, 0.6, false), &expected, 0.6);
    }
}
