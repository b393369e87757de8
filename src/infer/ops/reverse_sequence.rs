//! ReverseSequence: the beginning of each sequence of a batch, last element first. On host tensors.

use super::context::{NodeContext, present};
use super::dense;
use super::function::HostFunction;
use crate::infer::graph::Fact;
use crate::infer::op::{Op, OpError};
use crate::infer::tensor::{DType, Tensor};

/// ONNX ReverseSequence: of sequence `b` along `batch_axis`, the first `lengths[b]` elements along `time_axis` turn
/// round; the others stay.
///
/// # Errors
/// When the axes are not 0 and 1 in either order, or the lengths are no integers, one for each sequence.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let (x, lengths) = (context.input(0)?, context.input(1)?);
    let batch = context.attributes.int("batch_axis")?.unwrap_or(1);
    let time = context.attributes.int("time_axis")?.unwrap_or(0);
    let [batch, time] = match [batch, time] {
        [0, 1] => [0, 1],
        [1, 0] => [1, 0],
        _ => return Err(OpError::Invalid(format!("batch_axis = {batch}, time_axis = {time}; they are 0 and 1"))),
    };
    if x.shape.len() < 2 {
        return Err(OpError::Invalid(format!("shape {:?} has no batch of sequences", x.shape)));
    }
    if lengths.dtype != DType::I64 || lengths.shape != [x.shape[batch]] {
        let (count, dtype, shape) = (x.shape[batch], lengths.dtype, &lengths.shape);
        return Err(OpError::Invalid(format!("sequence_lens is {dtype} {shape:?}, not i64 [{count}]")));
    }
    Ok(HostFunction::boxed("ReverseSequence", vec![Fact::new(x.dtype, &x.shape)], move |inputs| {
        let (x, lengths) = (present(inputs, 0)?, present(inputs, 1)?.to_i64());
        reverse(x, &lengths, batch, time).map(|y| vec![y])
    }))
}

fn reverse(x: &Tensor, lengths: &[i64], batch: usize, time: usize) -> Result<Tensor, OpError> {
    let extents = [x.shape()[0], x.shape()[1]];
    if let Some(bad) = lengths.iter().find(|l| !usize::try_from(**l).is_ok_and(|l| l <= extents[time])) {
        return Err(OpError::Invalid(format!("a sequence of {bad} of {} elements", extents[time])));
    }
    let inner: usize = x.shape()[2..].iter().product();
    let position = |flat: usize| {
        let mut at = [flat / inner / extents[1], flat / inner % extents[1]];
        let length = lengths[at[batch]] as usize;
        if at[time] < length {
            at[time] = length - 1 - at[time];
        }
        (at[0] * extents[1] + at[1]) * inner + flat % inner
    };
    dense::pick(x, (0..x.len()).map(position), x.shape())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn build(attributes: &[AttributeProto], x: &Tensor, lengths: &Tensor) -> Result<Box<dyn Op>, OpError> {
        build_for_test("ReverseSequence", 10, attributes, &[&Fact::of(x), &Fact::of(lengths)])
    }

    #[test]
    fn beginnings_turn_round_along_either_axis() {
        // The two examples of the standard.
        let x = Tensor::from_f32(&[4, 4], (0..16).map(|i| (i % 4 * 4 + i / 4) as f32).collect()).expect("shape");
        let lengths = Tensor::vec_i64(vec![4, 3, 2, 1]);
        let op = build(&[AttributeProto::int("time_axis", 0), AttributeProto::int("batch_axis", 1)], &x, &lengths)
            .expect("builds");
        let y = op.eval(&[Some(&x), Some(&lengths)]).expect("folds").expect("evaluates");
        let want = [3, 6, 9, 12, 2, 5, 8, 13, 1, 4, 10, 14, 0, 7, 11, 15].map(|v| v as f32);
        assert_eq!(y[0].to_f32(), want);

        let x = Tensor::from_f32(&[4, 4], (0..16).map(|i| i as f32).collect()).expect("shape");
        let lengths = Tensor::vec_i64(vec![1, 2, 3, 4]);
        let op = build(&[AttributeProto::int("time_axis", 1), AttributeProto::int("batch_axis", 0)], &x, &lengths)
            .expect("builds");
        let y = op.eval(&[Some(&x), Some(&lengths)]).expect("folds").expect("evaluates");
        let want = [0, 1, 2, 3, 5, 4, 6, 7, 10, 9, 8, 11, 15, 14, 13, 12].map(|v| v as f32);
        assert_eq!(y[0].to_f32(), want);
    }

    #[test]
    fn further_axes_and_integers_come_along() {
        let x = Tensor::from_i64(&[2, 1, 3], vec![1, 2, 3, 4, 5, 6]).expect("shape");
        let lengths = Tensor::vec_i64(vec![2]);
        let y = build(&[], &x, &lengths).expect("builds").eval(&[Some(&x), Some(&lengths)]);
        assert_eq!(y.expect("folds").expect("evaluates")[0].to_i64(), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let x = Tensor::from_f32(&[2, 3], vec![0.0; 6]).expect("shape");
        let lengths = Tensor::vec_i64(vec![2, 2, 2]);
        for (attributes, lengths, word) in [
            (vec![AttributeProto::int("batch_axis", 2)], lengths.clone(), "batch_axis"),
            (vec![], Tensor::vec_i64(vec![1]), "sequence_lens"),
            (vec![], Tensor::from_f32(&[3], vec![1.0; 3]).expect("shape"), "f32"),
        ] {
            let why = build(&attributes, &x, &lengths).expect_err("refused").to_string();
            assert!(why.contains(word), "{why}");
        }
        for bad in [-1, 3] {
            let lengths = Tensor::vec_i64(vec![1, bad, 1]);
            let op = build(&[], &x, &lengths).expect("builds");
            let why = op.eval(&[Some(&x), Some(&lengths)]).expect("folds").expect_err("refused");
            assert!(why.to_string().contains("sequence of"), "{why}");
        }
    }
}
