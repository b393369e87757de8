//! Sliding windows as ONNX describes them: kernel_shape, strides, pads, dilations, auto_pad.

use super::context::{NodeContext, WINDOW_MAX};
use crate::infer::kernels::conv::Window;
use crate::infer::op::OpError;

/// A list attribute with one number for height and one for width (or four pads), within sane bounds.
fn numbers<const N: usize>(
    context: &NodeContext<'_>,
    name: &str,
    default: [usize; N],
    least: i64,
) -> Result<[usize; N], OpError> {
    let Some(given) = context.attributes.ints(name)? else { return Ok(default) };
    let mut values = [0; N];
    if given.len() != N {
        return Err(OpError::Unsupported(format!("{name} = {given:?}; {N} numbers are needed for a 2-D window")));
    }
    for (value, &g) in values.iter_mut().zip(given) {
        *value = usize::try_from(g)
            .ok()
            .filter(|_| (least..=WINDOW_MAX).contains(&g))
            .ok_or_else(|| OpError::Unsupported(format!("{name} = {given:?}; {least} to {WINDOW_MAX} is supported")))?;
    }
    Ok(values)
}

/// The `[N, C, H, W]` of a feature map.
///
/// # Errors
/// When the rank is not 4; the message says which ranks mean which dimensionality.
pub fn feature_map_shape(shape: &[usize]) -> Result<[usize; 4], OpError> {
    <[usize; 4]>::try_from(shape).map_err(|_| {
        let kind = match shape.len() {
            3 => "1-D",
            5 => "3-D",
            _ => "non-2-D",
        };
        OpError::Unsupported(format!("input of shape {shape:?} makes this {kind}; only 2-D [N, C, H, W] is supported"))
    })
}

/// Reads the window attributes and resolves auto_pad for an input of `size_px` (height, width). `kernel`: the extent
/// that the weights have, where there are weights.
///
/// # Errors
/// When attributes are missing, contradict each other or the weights, or are not 2-D.
pub fn read(context: &NodeContext<'_>, size_px: [usize; 2], kernel: Option<[usize; 2]>) -> Result<Window, OpError> {
    let given = numbers(context, "kernel_shape", kernel.unwrap_or([0, 0]), 1)?;
    if given[0] == 0 || given[1] == 0 {
        return Err(OpError::Invalid("kernel_shape is missing".into()));
    }
    if let Some(kernel) = kernel.filter(|k| *k != given) {
        return Err(OpError::Invalid(format!("kernel_shape is {given:?}, the weights have {kernel:?}")));
    }
    let stride = numbers(context, "strides", [1, 1], 1)?;
    let dilation = numbers(context, "dilations", [1, 1], 1)?;
    let explicit = numbers(context, "pads", [0; 4], 0)?;
    let mut window = Window { kernel: given, stride, pads: explicit, dilation };
    let auto_pad = context.attributes.string("auto_pad")?.unwrap_or("NOTSET");
    if auto_pad != "NOTSET" && explicit != [0; 4] {
        return Err(OpError::Invalid(format!("auto_pad = {auto_pad} and pads = {explicit:?} exclude each other")));
    }
    match auto_pad {
        "NOTSET" | "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for axis in 0..2 {
                let outputs = size_px[axis].div_ceil(stride[axis]);
                let reach = (outputs.max(1) - 1) * stride[axis] + (given[axis] - 1) * dilation[axis] + 1;
                let total = reach.saturating_sub(size_px[axis]);
                let (small, large) = (total / 2, total - total / 2);
                let (before, after) = if auto_pad == "SAME_UPPER" { (small, large) } else { (large, small) };
                (window.pads[axis], window.pads[axis + 2]) = (before, after);
            }
        }
        other => {
            return Err(OpError::Unsupported(format!(
                "auto_pad = {other}; NOTSET, VALID, SAME_UPPER and SAME_LOWER are supported"
            )));
        }
    }
    Ok(window)
}

/// Height and width of the output of a window that slides over `size_px` (height, width).
///
/// # Errors
/// When the window is larger than the padded picture.
pub fn output_size(window: &Window, size_px: [usize; 2], ceil_mode: bool) -> Result<[usize; 2], OpError> {
    let mut output = [0; 2];
    for axis in 0..2 {
        let (before, after) = (window.pads[axis] as u64, window.pads[axis + 2] as u64);
        let stride = window.stride[axis] as u64;
        let reach = (window.kernel[axis] as u64 - 1) * window.dilation[axis] as u64 + 1;
        let padded = size_px[axis] as u64 + before + after;
        let Some(room) = padded.checked_sub(reach) else {
            return Err(OpError::Invalid(format!(
                "a window reaching {reach} pixels does not fit {padded} padded ones"
            )));
        };
        let mut count = if ceil_mode { room.div_ceil(stride) } else { room / stride } + 1;
        // The last window must start inside the picture or the padding before it.
        if ceil_mode && (count - 1) * stride >= size_px[axis] as u64 + before {
            count -= 1;
        }
        output[axis] = usize::try_from(count).unwrap_or(usize::MAX);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::import::onnx::attributes::Attributes;
    use crate::infer::import::onnx::proto::AttributeProto;

    fn window(kernel: usize, stride: usize, pads: [usize; 4], dilation: usize) -> Window {
        Window { kernel: [kernel; 2], stride: [stride; 2], pads, dilation: [dilation; 2] }
    }

    #[test]
    fn output_sizes() {
        assert_eq!(output_size(&window(3, 2, [1; 4], 1), [416, 7], false), Ok([208, 4]));
        assert_eq!(output_size(&window(3, 1, [2; 4], 2), [5, 9], false), Ok([5, 9]));
        assert_eq!(output_size(&window(3, 2, [0; 4], 1), [112, 6], true), Ok([56, 3]));
        // Ceil mode must not add a window that starts in the padding behind the picture.
        assert_eq!(output_size(&window(1, 2, [0; 4], 1), [2, 2], true), Ok([1, 1]));
        assert!(output_size(&window(3, 1, [0; 4], 1), [2, 5], false).is_err());
    }

    fn same(mode: &str, size: [usize; 2], stride: i64) -> Result<[usize; 4], OpError> {
        let list = [AttributeProto::string("auto_pad", mode), AttributeProto::ints("strides", &[stride, stride])];
        read(&NodeContext::new("Conv", 13, Attributes::new(&list), vec![], 1), size, Some([3, 4])).map(|w| w.pads)
    }

    #[test]
    fn auto_pad_is_resolved() {
        assert_eq!(same("SAME_UPPER", [28, 28], 1), Ok([1, 1, 1, 2]));
        assert_eq!(same("SAME_LOWER", [28, 28], 1), Ok([1, 2, 1, 1]));
        assert_eq!(same("SAME_UPPER", [28, 28], 2), Ok([0, 1, 1, 1]));
        assert_eq!(same("VALID", [28, 28], 2), Ok([0; 4]));
        assert!(same("SAME", [28, 28], 2).is_err());
    }
}
