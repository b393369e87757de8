//! DepthToSpace and SpaceToDepth: blocks of pixels to channels and back. Both are one strided copy.

use super::context::{NodeContext, WINDOW_MAX, input, present};
use super::dense;
use super::window::feature_map_shape;
use crate::infer::graph::{Fact, ValueId};
use crate::infer::op::{Op, OpError};
use crate::infer::plan::lower::Lowering;
use crate::infer::plan::view::{BufferId, View};
use crate::infer::tensor::Tensor;

/// ONNX DepthToSpace and SpaceToDepth.
#[derive(Clone, Debug)]
pub struct SpaceDepth {
    /// Side of a block of pixels.
    pub block: usize,
    /// Pixels become channels (SpaceToDepth).
    pub to_depth: bool,
    /// Channels outermost, then the position in the block (ONNX "CRD"); else the position first ("DCR").
    pub channels_first: bool,
}

/// ONNX DepthToSpace and SpaceToDepth.
///
/// # Errors
/// When the block is missing or the mode unknown.
pub fn build(context: &mut NodeContext<'_>) -> Result<Box<dyn Op>, OpError> {
    let to_depth = context.op_type == "SpaceToDepth";
    let block = context.attributes.int("blocksize")?.unwrap_or(0);
    if !(1..=WINDOW_MAX).contains(&block) {
        return Err(OpError::Invalid(format!("blocksize = {block}")));
    }
    let channels_first = match context.attributes.string("mode")?.unwrap_or("DCR") {
        "DCR" => false,
        "CRD" => true,
        other => return context.refuse(format!("mode = {other}; DCR and CRD are supported")),
    };
    Ok(Box::new(SpaceDepth { block: block as usize, to_depth, channels_first }))
}

impl SpaceDepth {
    /// Both sides as `[N, block y, block x, C, H, W]`, where `deep` has the channels and `wide` the pixels.
    fn split(&self, deep: &View, wide: &View) -> Option<(View, View)> {
        let b = self.block;
        let (n, c, h, w) = (deep.shape[0], wide.shape[1], deep.shape[2], deep.shape[3]);
        let deep = if self.channels_first {
            deep.reshaped(&[n, c, b, b, h, w])?.transposed(&[0, 2, 3, 1, 4, 5])
        } else {
            deep.reshaped(&[n, b, b, c, h, w])?
        };
        let wide = wide.reshaped(&[n, c, h, b, w, b])?.transposed(&[0, 3, 5, 1, 2, 4]);
        Some((deep, wide))
    }

    /// Source and target in an order of axes in which their elements correspond.
    fn paired(&self, source: &View, target: &View) -> Result<(View, View), OpError> {
        let pair = if self.to_depth {
            self.split(target, source).map(|(deep, wide)| (wide, deep))
        } else {
            self.split(source, target)
        };
        pair.ok_or_else(|| OpError::Invalid(format!("shapes {:?} and {:?}", source.shape, target.shape)))
    }
}

impl Op for SpaceDepth {
    fn name(&self) -> &'static str {
        if self.to_depth { "SpaceToDepth" } else { "DepthToSpace" }
    }

    fn infer(&self, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, OpError> {
        let x = input(inputs, 0)?;
        let [n, c, h, w] = feature_map_shape(&x.shape)?;
        let b = self.block;
        let misfit = || OpError::Invalid(format!("blocks of {b} do not divide shape {:?}", x.shape));
        let area = b.checked_mul(b).ok_or_else(misfit)?;
        let shape = if self.to_depth {
            if h % b != 0 || w % b != 0 {
                return Err(misfit());
            }
            [n, c.checked_mul(area).ok_or_else(misfit)?, h / b, w / b]
        } else {
            if c % area != 0 {
                return Err(misfit());
            }
            let grown = |extent: usize| extent.checked_mul(b).ok_or_else(misfit);
            [n, c / area, grown(h)?, grown(w)?]
        };
        Ok(vec![Fact::new(x.dtype, &shape)])
    }

    fn eval(&self, inputs: &[Option<&Tensor>]) -> Option<Result<Vec<Tensor>, OpError>> {
        let evaluate = || {
            let x = present(inputs, 0)?;
            let shape = &self.infer(&[Some(&Fact::new(x.dtype(), x.shape()))])?[0].shape;
            let (from, to) = self.paired(&dense::view_of(x), &View::row_major(BufferId(0), shape))?;
            let mut positions = vec![0; x.len()];
            for (source, at) in dense::walk(&from).zip(dense::walk(&to)) {
                positions[at] = source;
            }
            Ok(vec![dense::pick(x, positions.into_iter(), shape)?])
        };
        Some(evaluate())
    }

    fn lower(&self, l: &mut Lowering<'_>, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Result<(), OpError> {
        let source = l.read(present(inputs, 0)?)?;
        let target = l.write(present(&[outputs.first().copied()], 0)?);
        let (from, to) = self.paired(&source, &target)?;
        l.copy(&from, &to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::proto::AttributeProto;
    use crate::infer::ops::context::build_for_test;

    fn eval(op_type: &str, mode: Option<&str>, x: &Tensor) -> Tensor {
        let mut attributes = vec![AttributeProto::int("blocksize", 2)];
        attributes.extend(mode.map(|m| AttributeProto::string("mode", m)));
        let op = build_for_test(op_type, 13, &attributes, &[&Fact::of(x)]).expect("builds");
        op.eval(&[Some(x)]).expect("folds").expect("evaluates").remove(0)
    }

    /// The examples of the ONNX standard, cut down to one pixel.
    #[test]
    fn depth_to_space_in_both_modes() {
        let x = Tensor::from_i64(&[1, 8, 1, 1], (0..8).collect()).expect("tensor");
        let y = eval("DepthToSpace", Some("DCR"), &x);
        assert_eq!((y.shape(), y.to_i64()), (&[1, 2, 2, 2][..], vec![0, 2, 4, 6, 1, 3, 5, 7]));
        assert_eq!(eval("DepthToSpace", Some("CRD"), &x).to_i64(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn space_to_depth_undoes_it() {
        let x = Tensor::from_i64(&[1, 8, 2, 3], (0..48).collect()).expect("tensor");
        assert_eq!(eval("SpaceToDepth", None, &eval("DepthToSpace", None, &x)), x);
        let odd = SpaceDepth { block: 2, to_depth: true, channels_first: false };
        assert!(odd.infer(&[Some(&Fact::f32(&[1, 1, 3, 4]))]).is_err());
    }
}
