//! Priors: the boxes that the offsets of SSD-like tables start from, one an anchor, by centre and size in pixels of the
//! network's input.

use crate::decode::head::GridScale;
use crate::shader::f32_literal;

/// Priors of one scale: every cell has one of each side, around one point of the cell.
#[derive(Clone, Debug)]
pub struct PriorScale {
    pub grid: GridScale,
    /// Index of the first prior.
    pub first: usize,
    pub sides_px: Vec<f32>,
}

#[derive(Clone, Debug)]
pub enum Priors {
    /// The boxes are decoded in the graph.
    None,
    /// Row by row, cell by cell, then by side.
    Grid {
        scales: Vec<PriorScale>,
        /// Where in its cell a prior's centre lies, in cells: ½ the middle, 0 the corner.
        point: f32,
        /// Centres and sizes are clipped to this width and height.
        clip_px: [f32; 2],
    },
    /// One by one: centre x, centre y, width, height.
    Listed(Vec<[f32; 4]>),
}

/// Nothing is clipped.
pub const UNCLIPPED: [f32; 2] = [f32::MAX; 2];

impl Priors {
    /// Priors with these sides at each scale.
    pub fn grid(
        grids: impl IntoIterator<Item = GridScale>,
        sides_px: &[&[f32]],
        point: f32,
        clip_px: [f32; 2],
    ) -> Priors {
        let mut first = 0;
        let scales = grids
            .into_iter()
            .zip(sides_px)
            .map(|(grid, sides)| {
                let scale = PriorScale { grid, first, sides_px: sides.to_vec() };
                first += grid.cells() * sides.len();
                scale
            })
            .collect();
        Priors::Grid { scales, point, clip_px }
    }

    /// How many there are at each scale of a grid.
    pub fn counts(&self) -> Vec<usize> {
        match self {
            Priors::Grid { scales, .. } => scales.iter().map(|s| s.grid.cells() * s.sides_px.len()).collect(),
            Priors::Listed(all) => vec![all.len()],
            Priors::None => Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.counts().iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Zeros where there is none.
    pub fn at(&self, anchor: usize) -> [f32; 4] {
        match self {
            Priors::None => [0.0; 4],
            Priors::Listed(all) => all.get(anchor).copied().unwrap_or_default(),
            Priors::Grid { scales, point, clip_px: [w, h] } => {
                let Some(scale) = scales.iter().rev().find(|p| p.first <= anchor) else { return [0.0; 4] };
                let (cell, size) =
                    ((anchor - scale.first) / scale.sides_px.len(), (anchor - scale.first) % scale.sides_px.len());
                let (i, j) = ((cell % scale.grid.cols) as f32, (cell / scale.grid.cols) as f32);
                let stride = scale.grid.stride_px as f32;
                let side_px = scale.sides_px[size];
                [((i + point) * stride).min(*w), ((j + point) * stride).min(*h), side_px.min(*w), side_px.min(*h)]
            }
        }
    }

    /// WGSL of [`Priors::at`], on one line: `prior` is the shader's function of column, row, stride and side.
    pub fn wgsl(&self) -> String {
        let scales = match self {
            Priors::None => return "fn prior_of(anchor: u32) -> vec4<f32> { return vec4<f32>(0.0); }".to_string(),
            Priors::Listed(_) => return "fn prior_of(anchor: u32) -> vec4<f32> { return priors[anchor]; }".to_string(),
            Priors::Grid { scales, .. } => scales,
        };
        let mut text = String::from("fn prior_of(anchor: u32) -> vec4<f32> {");
        for (k, p) in scales.iter().enumerate() {
            let n = p.sides_px.len();
            let mut side_of = f32_literal(p.sides_px[n - 1]);
            for (m, &side_px) in p.sides_px.iter().enumerate().rev().skip(1) {
                side_of = format!("select({side_of}, {}, a{k} % {n}u == {m}u)", f32_literal(side_px));
            }
            let body = format!(
                "let a{k} = anchor - {}u; let c{k} = a{k} / {n}u; return prior(c{k} % {cols}u, c{k} / {cols}u, {}, {side_of});",
                p.first,
                f32_literal(p.grid.stride_px as f32),
                cols = p.grid.cols
            );
            if k + 1 < scales.len() {
                text.push_str(&format!(" if (anchor < {}u) {{ {body} }}", p.first + n * p.grid.cells()));
            } else {
                text.push_str(&format!(" {body}"));
            }
        }
        text.push_str(" }");
        text
    }
}
