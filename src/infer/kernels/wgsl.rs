//! Lines of WGSL that several kernels fill in the same way: feature maps, epilogues, strided access, dispatch sizes.

use super::conv::Residual;
use super::walk::Walk;
use crate::infer::activation::Activation;
use crate::infer::plan::view::{FeatureMap, View};
use crate::shader::{VariantBuilder, f32_literal};

/// Snippet that shaders with the line `// include: activation` need.
pub const ACTIVATION: &str = include_str!("../../../shaders/common/activation.wgsl");

/// Most workgroups that WebGPU guarantees along one axis.
const WORKGROUPS_MAX: usize = 65535;

/// A view as a feature map.
///
/// # Panics
/// When it is none: operators ask the planner for feature maps where a kernel needs them.
pub fn feature_map(view: &View) -> FeatureMap {
    view.feature_map().unwrap_or_else(|| panic!("the planner gave a feature map kernel the view {view:?}"))
}

/// Spreads workgroups over x and y, so that neither exceeds the limit of a dispatch. The shader computes the flat
/// number as `group.y * GROUPS_X + group.x` and must check it against its own count.
pub fn flat_workgroups(count: usize) -> [u32; 3] {
    let y = count.div_ceil(WORKGROUPS_MAX).max(1);
    [count.div_ceil(y).max(1) as u32, y as u32, 1]
}

/// Declares `GROUPS_X` and finishes the variant for `count` workgroups.
pub fn build_flat(builder: VariantBuilder, count: usize) -> crate::shader::Variant {
    let workgroups = flat_workgroups(count);
    builder.u32("GROUPS_X", workgroups[0] as usize).build(workgroups)
}

/// Replaces the line of a `const NAME: array<u32, ..>`.
pub fn list(builder: VariantBuilder, name: &str, values: &[usize]) -> VariantBuilder {
    let n = values.len();
    let text: Vec<String> = values.iter().map(|v| format!("{v}u")).collect();
    builder.line(
        &format!("const {name}:"),
        &format!("const {name}: array<u32, {n}> = array<u32, {n}>({});", text.join(", ")),
    )
}

/// Lists with a number for each spatial axis in the order of the file; shaders have the last axis first.
pub fn spatial_lists(builder: VariantBuilder, lists: &[(&str, &[usize])]) -> VariantBuilder {
    lists.iter().fold(builder, |b, (name, values)| list(b, name, &values.iter().rev().copied().collect::<Vec<_>>()))
}

/// Offset and strides of a view `[N, C, spatial...]` in elements, as `NAME_OFFSET`, `NAME_IMAGE`, `NAME_CHANNEL` and the
/// list `NAME_STRIDES`.
pub fn spatial_view(builder: VariantBuilder, name: &str, view: &View) -> VariantBuilder {
    let builder = builder
        .u32(&format!("{name}_OFFSET"), view.offset)
        .u32(&format!("{name}_IMAGE"), view.strides[0])
        .u32(&format!("{name}_CHANNEL"), view.strides[1]);
    spatial_lists(builder, &[(&format!("{name}_STRIDES"), &view.strides[2..])])
}

/// The axes of a [`Walk`] in elements: `RANK`, `EXTENTS`, and for each view `NAME_OFFSET` and `NAME_STRIDES`.
pub fn walk(builder: VariantBuilder, walk: &Walk, names: &[&str]) -> VariantBuilder {
    let extents: Vec<usize> = walk.extents.iter().map(|&n| n.max(1)).collect();
    let mut builder = list(builder.u32("RANK", extents.len()), "EXTENTS", &extents);
    for (i, name) in names.iter().enumerate() {
        builder = builder.u32(&format!("{name}_OFFSET"), walk.offsets[i]);
        builder = list(builder, &format!("{name}_STRIDES"), &walk.strides[i]);
    }
    builder
}

/// Offset and strides of a feature map in units of `vec4`, as `NAME_OFFSET`, `NAME_IMAGE`, `NAME_ROW`, `NAME_PIXEL`.
pub fn place(builder: VariantBuilder, name: &str, map: &FeatureMap) -> VariantBuilder {
    debug_assert!(map.is_aligned(4), "{name} is not aligned to 4 channels: {map:?}");
    place_in(builder, name, map, 4)
}

/// As [`place`], in elements.
pub fn place_scalar(builder: VariantBuilder, name: &str, map: &FeatureMap) -> VariantBuilder {
    place_in(builder, name, map, 1)
}

fn place_in(builder: VariantBuilder, name: &str, map: &FeatureMap, unit: usize) -> VariantBuilder {
    builder
        .u32(&format!("{name}_OFFSET"), map.offset / unit)
        .u32(&format!("{name}_IMAGE"), map.image_stride / unit)
        .u32(&format!("{name}_ROW"), map.row_stride / unit)
        .u32(&format!("{name}_PIXEL"), map.pixel_stride / unit)
}

/// The call that computes an activation on a `vec4<f32>` named `x`.
fn call(activation: Activation) -> String {
    let f = f32_literal;
    match activation {
        Activation::None => "x".into(),
        Activation::Tanh => "tanh_clamped(x)".into(),
        Activation::Clip { lo, hi } => format!("clip(x, {}, {})", f(lo), f(hi)),
        Activation::LeakyRelu { alpha } => format!("leaky_relu(x, {})", f(alpha)),
        Activation::Elu { alpha } => format!("elu(x, {})", f(alpha)),
        Activation::HardSigmoid { alpha, beta } => format!("hard_sigmoid(x, {}, {})", f(alpha), f(beta)),
        other => format!("{}(x)", other.label()),
    }
}

/// Appends the activation functions and chooses one as `activate`.
pub fn activation(builder: VariantBuilder, activation: Activation) -> VariantBuilder {
    builder
        .include(ACTIVATION)
        .line("fn activate(", &format!("fn activate(x: vec4<f32>) -> vec4<f32> {{ return {}; }}", call(activation)))
}

/// The epilogue of a convolution: activation, residual, and the store to a feature map of `channels`.
///
/// The shader declares `residual` and `dst` as its last two bindings, `fn finish(x, at)` and `fn store(at, c4, v)`.
pub fn epilogue(
    builder: VariantBuilder,
    act: Activation,
    residual: Residual,
    dst_binding: usize,
    channels: usize,
) -> VariantBuilder {
    let builder = activation(builder, act);
    let residual_line = format!("@group(0) @binding({}) var<storage, read> residual", dst_binding - 1);
    let finish = |body: &str| format!("fn finish(x: vec4<f32>, at: u32) -> vec4<f32> {{ return {body}; }}");
    let dst_line = format!("@group(0) @binding({dst_binding}) var<storage, read_write> dst");
    let (builder, dst_binding) = match residual {
        Residual::None => {
            (builder.line(&residual_line, "").line("fn finish(", &finish("activate(x)")), dst_binding - 1)
        }
        Residual::BeforeActivation => {
            (builder.line("fn finish(", &finish("activate(x + vec4<f32>(residual[at]))")), dst_binding)
        }
        Residual::AfterActivation => {
            (builder.line("fn finish(", &finish("activate(x) + vec4<f32>(residual[at])")), dst_binding)
        }
    };
    store(builder, &dst_line, dst_binding, channels)
}

/// Declares `dst` and `fn store(at, c4, v)`, which writes lanes `4·c4..` of an axis of `extent` elements, `at` in units
/// of `vec4`. The lanes beyond the extent may belong to a neighbour, so they are left alone.
pub fn store(builder: VariantBuilder, dst_line: &str, dst_binding: usize, extent: usize) -> VariantBuilder {
    let scalar = "array<S>";
    let (kind, body) = match extent % 4 {
        0 => ("array<S4>", "dst[at] = S4(v);".to_string()),
        tail => {
            let last: String =
                (0..tail).map(|lane| format!("dst[i + {lane}u] = S(v.{}); ", ["x", "y", "z", "w"][lane])).collect();
            let all: String =
                (0..4).map(|lane| format!("dst[i + {lane}u] = S(v.{}); ", ["x", "y", "z", "w"][lane])).collect();
            (scalar, format!("let i = at * 4u; if c4 == {}u {{ {last}}} else {{ {all}}}", extent / 4))
        }
    };
    builder
        .line(dst_line, &format!("@group(0) @binding({dst_binding}) var<storage, read_write> dst: {kind};"))
        .line("fn store(", &format!("fn store(at: u32, c4: u32, v: vec4<f32>) {{ {body} }}"))
}

/// The line of `fn load_src(at, c4)` for an axis of `channels`: lanes beyond it are 0, whatever memory holds there.
pub fn load_masked(builder: VariantBuilder, channels: usize) -> VariantBuilder {
    if channels.is_multiple_of(4) {
        return builder;
    }
    builder.line(
        "fn load_src(",
        &format!(
            "fn load_src(at: u32, c4: u32) -> vec4<f32> {{ return select(vec4<f32>(0.0), vec4<f32>(src[at]), \
             vec4<u32>(0u, 1u, 2u, 3u) + 4u * c4 < vec4<u32>({channels}u)); }}"
        ),
    )
}

/// How a shader reads or writes one view of a [`Walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Aligned vectors of four.
    Vector,
    /// One element, repeated in all lanes; what the scalar path does.
    Splat,
    /// Four elements one by one, this far apart.
    Gather(usize),
}

/// A [`Walk`] cut into the pieces of one thread each: four neighbours of the last view where that is aligned, else one
/// element.
pub struct Lanes {
    walk: Walk,
    access: Vec<Access>,
    four: bool,
}

impl Lanes {
    /// Decides by the last view, which is written.
    pub fn new(walk: Walk) -> Lanes {
        Lanes::around(walk, &[])
    }

    /// As [`Lanes::new`], where a thread also walks view 0 along axes of these strides.
    pub fn around(walk: Walk, looped: &[usize]) -> Lanes {
        let vector = |view: usize| {
            walk.strides[view][0] == 1
                && (view != 0 || looped.iter().all(|s| s % 4 == 0))
                && walk.offsets[view].is_multiple_of(4)
                && walk.strides[view][1..].iter().all(|s| s % 4 == 0)
        };
        let views = walk.strides.len();
        let four = walk.extents[0] >= 3 && vector(views - 1);
        let access = (0..views)
            .map(|view| match walk.strides[view][0] {
                _ if !four => Access::Splat,
                _ if vector(view) => Access::Vector,
                0 => Access::Splat,
                stride => Access::Gather(stride),
            })
            .collect();
        Lanes { walk, access, four }
    }

    /// Threads needed.
    pub fn count(&self) -> usize {
        self.groups() * self.walk.extents[1..].iter().product::<usize>()
    }

    /// Elements per unit in which the binding of a view is indexed.
    pub fn unit(&self, view: usize) -> usize {
        if self.access[view] == Access::Vector { 4 } else { 1 }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.walk.extents.len()
    }

    fn groups(&self) -> usize {
        if self.four { self.walk.extents[0].div_ceil(4) } else { self.walk.extents[0] }
    }

    /// Declares `COUNT`, `RANK` and `EXTENTS`.
    pub fn extents(&self, builder: VariantBuilder) -> VariantBuilder {
        let mut extents = self.walk.extents.clone();
        extents[0] = self.groups();
        // A divisor of 0 would not even compile; an empty walk is stopped by COUNT.
        extents.iter_mut().for_each(|n| *n = (*n).max(1));
        list(builder.u32("COUNT", self.count()).u32("RANK", extents.len()), "EXTENTS", &extents)
    }

    /// Declares `NAME_OFFSET` and `NAME_STRIDES` of a view, in the units in which its binding is indexed.
    fn strides(&self, builder: VariantBuilder, name: &str, view: usize) -> VariantBuilder {
        let upper = name.to_uppercase();
        let (strides, offset) = (&self.walk.strides[view], self.walk.offsets[view]);
        let (strides, offset): (Vec<usize>, usize) = match self.access[view] {
            Access::Vector => (std::iter::once(1).chain(strides[1..].iter().map(|s| s / 4)).collect(), offset / 4),
            Access::Splat => (strides.clone(), offset),
            Access::Gather(stride) => {
                (std::iter::once(4 * stride).chain(strides[1..].iter().copied()).collect(), offset)
            }
        };
        list(builder.u32(&format!("{upper}_OFFSET"), offset), &format!("{upper}_STRIDES"), &strides)
    }

    /// Declares a view that is read: its binding, strides, and `fn load_name(at, inner)`.
    pub fn read(&self, builder: VariantBuilder, name: &str, view: usize, binding: usize) -> VariantBuilder {
        let line = format!("@group(0) @binding({binding}) var<storage, read> {name}");
        let (kind, body) = match self.access[view] {
            Access::Vector => ("array<S4>", format!("return vec4<f32>({name}[at]);")),
            Access::Splat => ("array<S>", format!("return vec4<f32>(f32({name}[at]));")),
            Access::Gather(stride) => {
                // Past the end of the axis the last element is read again.
                let last = self.walk.extents[0] - 1;
                (
                    "array<S>",
                    format!(
                        "let i = at + {stride}u * (min(vec4<u32>(0u, 1u, 2u, 3u) + 4u * inner, vec4<u32>({last}u)) - 4u * inner); \
                         return vec4<f32>(f32({name}[i.x]), f32({name}[i.y]), f32({name}[i.z]), f32({name}[i.w]));"
                    ),
                )
            }
        };
        let builder = builder.line(&line, &format!("{line}: {kind};")).line(
            &format!("fn load_{name}("),
            &format!("fn load_{name}(at: u32, inner: u32) -> vec4<f32> {{ {body} }}"),
        );
        self.strides(builder, name, view)
    }

    /// Declares the view that is written, the last one: its binding (at `raw_binding` in the file), strides, and
    /// `fn store(at, c4, v)`.
    pub fn write(&self, builder: VariantBuilder, raw_binding: usize, binding: usize) -> VariantBuilder {
        let line = format!("@group(0) @binding({raw_binding}) var<storage, read_write> dst");
        let builder = if self.four {
            store(builder, &line, binding, self.walk.extents[0])
        } else {
            builder
                .line(&line, &format!("@group(0) @binding({binding}) var<storage, read_write> dst: array<S>;"))
                .line("fn store(", "fn store(at: u32, c4: u32, v: vec4<f32>) { dst[at] = S(v.x); }")
        };
        self.strides(builder, "dst", self.access.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_stay_inside_the_limit() {
        assert_eq!(flat_workgroups(0), [1, 1, 1]);
        assert_eq!(flat_workgroups(65535), [65535, 1, 1]);
        let [x, y, _] = flat_workgroups(1_000_003);
        assert!(x <= 65535 && y <= 65535 && x as usize * y as usize >= 1_000_003);
    }
}
