//! From detections to rectangles: twin of `shaders/draw/layout.wgsl`, which reads the same table and writes the same
//! list to the last bit. All geometry is in whole pixels, and the few float operations are exact in both.

use super::font::{Atlas, glyph_index};
use super::instances::{GLYPH, Instance, SOLID, Style};
use super::palette::{Rgba, class_colour, ink_colour, outline_colour};
use crate::decode::points::PointList;
use crate::decode::{RawDetection, candidates};
use crate::shader::{Variant, VariantBuilder};
use bytemuck::{Pod, Zeroable};

/// The shader's text.
pub const LAYOUT_WGSL: &str = include_str!("../../shaders/draw/layout.wgsl");

/// Characters of a label that are shown; a longer one ends in an ellipsis.
pub const LABEL_CHARACTERS: usize = 48;

/// Thickness of the dark line on both sides of an edge.
const OUTLINE_PX: i32 = 1;

/// Words before the detections in the buffer that NMS writes; the first is their number, the third that of the points of
/// each, the fourth the word where those begin.
pub const FOUND_HEADER_WORDS: usize = candidates::HEADER_WORDS;

/// In [`RawDetection::reserved`]: the box is drawn elsewhere, as a turned one; its label is not.
pub const LABEL_ONLY: u32 = 1;

/// Words of the table's header.
pub const HEADER_WORDS: usize = 16;
/// Words of a label's entry.
pub const LABEL_WORDS: usize = 8;
/// Words of a glyph's entry.
pub const GLYPH_WORDS: usize = 8;

/// Sides beyond this do not exist; up to it every pixel has an exact f32.
const TARGET_LIMIT_PX: u32 = 1 << 24;

/// Everything the layout needs beside the detections, as 4-byte words for a storage buffer.
///
/// | words | content |
/// |---|---|
/// | 0 | number of labels n |
/// | 1 | 1: write labels, 2: write scores |
/// | 2, 3 | size of the target in pixels |
/// | 4, 5 | f32: target pixels per picture pixel |
/// | 6, 7 | f32: where the picture's top left lies in the target |
/// | 8 | width of edges in pixels |
/// | 9 | height of a label bar |
/// | 10 | from the bar's left to the text, and from the text to its right |
/// | 11 | from the bar's top to the baseline |
/// | 12 | word of the first glyph entry |
/// | 13, 14, 15 | glyphs of 0 (1 to 9 follow), of the full stop, of the space |
/// | 16 + 8·class | a label: word of its first glyph index, number of glyphs, sum of their advances, colours as RGBA8 of bar, text, outline, 1 if hidden, 1 unused |
/// | then | glyph indices of the labels, one a word |
/// | then 8 a glyph | atlas x, y, width, height, i32 offset x, y from the pen, advance, unused |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTable {
    words: Vec<u32>,
}

impl LabelTable {
    /// The table for labels given as (class for the colour, text), one "?" when there are none, drawn 1:1 on a picture of `picture_px`. Detections
    /// name a label by its place in this list.
    pub fn new<T: AsRef<str>>(
        labels: impl IntoIterator<Item = (u32, T)>,
        picture_px: [u32; 2],
        style: &Style,
        atlas: &Atlas,
    ) -> LabelTable {
        let mut entries: Vec<[u32; LABEL_WORDS]> = Vec::new();
        let mut runs: Vec<u32> = Vec::new();
        let mut add = |class: u32, label: &str| {
            let mut glyphs: Vec<u32> = label.chars().take(LABEL_CHARACTERS + 1).map(glyph_index).collect();
            if glyphs.len() > LABEL_CHARACTERS {
                glyphs.truncate(LABEL_CHARACTERS - 1);
                glyphs.push(glyph_index('…'));
            }
            let width_px: u32 = glyphs.iter().map(|&g| atlas.glyph(g).advance_px).sum();
            let fill = class_colour(class);
            let [fill_word, ink, outline] = [fill, ink_colour(fill), outline_colour(fill)].map(u32::from_le_bytes);
            entries.push([runs.len() as u32, glyphs.len() as u32, width_px, fill_word, ink, outline, 0, 0]);
            runs.extend(glyphs);
        };
        let mut is_empty = true;
        for (class, label) in labels {
            add(class, label.as_ref());
            is_empty = false;
        }
        // The shader relies on a last label.
        if is_empty {
            add(0, "?");
        }
        let first_run = HEADER_WORDS + LABEL_WORDS * entries.len();
        let first_glyph = first_run + runs.len();
        let capital_px = atlas.capital_px;
        let pad_y_px = atlas.descent_px + capital_px.div_ceil(8);
        let flags = if style.has_text(picture_px) { u32::from(style.labels) | u32::from(style.scores) << 1 } else { 0 };
        let header: [u32; HEADER_WORDS] = [
            entries.len() as u32,
            flags,
            picture_px[0].min(TARGET_LIMIT_PX),
            picture_px[1].min(TARGET_LIMIT_PX),
            1f32.to_bits(),
            1f32.to_bits(),
            0f32.to_bits(),
            0f32.to_bits(),
            style.line_px(picture_px),
            capital_px + 2 * pad_y_px,
            capital_px.div_ceil(2),
            capital_px + pad_y_px,
            first_glyph as u32,
            glyph_index('0'),
            glyph_index('.'),
            glyph_index(' '),
        ];
        let mut words = Vec::with_capacity(first_glyph + GLYPH_WORDS * atlas.glyphs.len());
        words.extend(header);
        for mut entry in entries {
            entry[0] += first_run as u32;
            words.extend(entry);
        }
        words.extend(runs);
        for g in &atlas.glyphs {
            words.extend([g.atlas_px[0], g.atlas_px[1], g.size_px[0], g.size_px[1]]);
            words.extend([g.offset_px[0] as u32, g.offset_px[1] as u32, g.advance_px, 0]);
        }
        LabelTable { words }
    }

    /// The same table for a target that shows the picture scaled and shifted, such as a window: a picture's point p lies
    /// at `p·scale + offset_px`.
    #[must_use]
    pub fn on_target(mut self, target_px: [u32; 2], scale: [f32; 2], offset_px: [f32; 2]) -> LabelTable {
        self.words[2] = target_px[0].min(TARGET_LIMIT_PX);
        self.words[3] = target_px[1].min(TARGET_LIMIT_PX);
        for axis in 0..2 {
            self.words[4 + axis] = scale[axis].to_bits();
            self.words[6 + axis] = offset_px[axis].to_bits();
        }
        self
    }

    /// The same table with the labels hidden that `shows` refuses: their boxes are not drawn.
    #[must_use]
    pub fn only(mut self, shows: impl Fn(u32) -> bool) -> LabelTable {
        for label in 0..self.words[0] {
            self.words[HEADER_WORDS + LABEL_WORDS * label as usize + 6] = u32::from(!shows(label));
        }
        self
    }

    /// The table's bytes for a storage buffer.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    fn word(&self, at: usize) -> u32 {
        self.words.get(at).copied().unwrap_or(0)
    }
}

/// The layout shader: found (what NMS wrote), labels ([`LabelTable::bytes`]), overlay ([`overlay_bytes`]).
pub fn variant() -> Variant {
    VariantBuilder::new("layout", LAYOUT_WGSL).u32("HEADER_WORDS", FOUND_HEADER_WORDS).build([1, 1, 1])
}

/// Bytes of a buffer of up to `capacity` rectangles: [`DrawHeader`], then the [`Instance`]s.
pub const fn overlay_bytes(capacity: usize) -> usize {
    size_of::<DrawHeader>() + capacity * size_of::<Instance>()
}

/// What the buffer of rectangles starts with: the arguments of an indirect draw, 16 bytes, and as many unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DrawHeader {
    /// 4, a triangle strip.
    pub vertices: u32,
    pub instances: u32,
    pub first_vertex: u32,
    pub first_instance: u32,
    pub reserved: [u32; 4],
}

impl DrawHeader {
    pub fn new(instances: usize) -> DrawHeader {
        DrawHeader { vertices: 4, instances: instances as u32, first_vertex: 0, first_instance: 0, reserved: [0; 4] }
    }
}

/// Where rectangles go.
struct Cursor<'a> {
    target_px: [i32; 2],
    capacity: usize,
    list: &'a mut Vec<Instance>,
}

impl<'a> Cursor<'a> {
    fn new(table: &LabelTable, capacity: usize, list: &'a mut Vec<Instance>) -> Cursor<'a> {
        Cursor { target_px: [table.word(2) as i32, table.word(3) as i32], capacity, list }
    }

    /// Clips a rectangle to the target and takes it up unless nothing is left.
    fn emit(&mut self, rect_px: [i32; 4], texel_px: [i32; 2], colour: u32, source: u32) {
        let r = [
            rect_px[0].max(0),
            rect_px[1].max(0),
            rect_px[2].min(self.target_px[0]),
            rect_px[3].min(self.target_px[1]),
        ];
        if r[2] <= r[0] || r[3] <= r[1] {
            return;
        }
        if self.list.len() < self.capacity {
            let cut_px = [r[0] - rect_px[0], r[1] - rect_px[1]];
            let texel_px = if source == GLYPH { [texel_px[0] + cut_px[0], texel_px[1] + cut_px[1]] } else { [0, 0] };
            self.list.push(Instance { rect_px: r, texel_px, colour: Rgba::from(colour.to_le_bytes()), source });
        }
    }

    /// The four sides between an outer rectangle and one `width_px` inside it.
    fn ring(&mut self, o: [i32; 4], width_px: i32, colour: u32) {
        let i = shrink(o, width_px);
        if i[2] <= i[0] || i[3] <= i[1] {
            self.emit(o, [0, 0], colour, SOLID);
            return;
        }
        self.emit([o[0], o[1], o[2], i[1]], [0, 0], colour, SOLID);
        self.emit([o[0], i[3], o[2], o[3]], [0, 0], colour, SOLID);
        self.emit([o[0], i[1], i[0], i[3]], [0, 0], colour, SOLID);
        self.emit([i[2], i[1], o[2], i[3]], [0, 0], colour, SOLID);
    }
}

fn shrink(r: [i32; 4], by_px: i32) -> [i32; 4] {
    [r[0] + by_px, r[1] + by_px, r[2] - by_px, r[3] - by_px]
}

fn is_finite(bits: u32) -> bool {
    bits & 0x7F80_0000 != 0x7F80_0000
}

/// The outer rectangle of a box's edges, in pixels of the target; `None` when there is nothing to draw.
fn outer_rect(d: &RawDetection, table: &LabelTable) -> Option<[i32; 4]> {
    if !d.bounds.iter().all(|v| is_finite(v.to_bits())) {
        return None;
    }
    if table.word(label_entry(d, table) + 6) != 0 {
        return None;
    }
    let half_line_px = (table.word(8) / 2) as i32;
    let mut outer = [0; 4];
    for axis in 0..2 {
        let side_px = table.word(2 + axis) as i32;
        let scale = f32::from_bits(table.word(4 + axis));
        let offset = f32::from_bits(table.word(6 + axis));
        let low = (d.bounds[axis] * scale + offset).max(0.0).min(side_px as f32);
        let high = (d.bounds[axis + 2] * scale + offset).max(0.0).min(side_px as f32);
        // A 64th of a pixel is the least extent; it also turns boxes inside out away.
        if high - low < 0.015_625 {
            return None;
        }
        let low_px = ((low + 0.5).floor() as i32).min(side_px - 1);
        let high_px = ((high + 0.5).floor() as i32).max(low_px + 1);
        outer[axis] = (low_px - half_line_px).max(0);
        outer[axis + 2] = (high_px + half_line_px).min(side_px);
    }
    Some(outer)
}

/// The edges of a box: a dark ring, and the coloured one on it.
fn emit_box(d: &RawDetection, table: &LabelTable, cursor: &mut Cursor) {
    if d.reserved == LABEL_ONLY {
        return;
    }
    let Some(outer) = outer_rect(d, table) else { return };
    let line_px = table.word(8) as i32;
    let entry = label_entry(d, table);
    cursor.ring(shrink(outer, -OUTLINE_PX), line_px + 2 * OUTLINE_PX, table.word(entry + 5));
    cursor.ring(outer, line_px, table.word(entry + 3));
}

/// The word of a detection's label; a class beyond the table takes the last label.
fn label_entry(d: &RawDetection, table: &LabelTable) -> usize {
    let last = table.word(0) - 1;
    HEADER_WORDS + LABEL_WORDS * d.class.min(last) as usize
}

/// One glyph at the pen; returns the next pen.
fn emit_glyph(glyph: u32, pen_px: [i32; 2], ink: u32, table: &LabelTable, cursor: &mut Cursor) -> i32 {
    let g = table.word(12) as usize + GLYPH_WORDS * glyph as usize;
    let left = pen_px[0] + table.word(g + 4) as i32;
    let top = pen_px[1] + table.word(g + 5) as i32;
    let rect = [left, top, left + table.word(g + 2) as i32, top + table.word(g + 3) as i32];
    cursor.emit(rect, [table.word(g) as i32, table.word(g + 1) as i32], ink, GLYPH);
    pen_px[0] + table.word(g + 6) as i32
}

fn advance(glyph: u32, table: &LabelTable) -> i32 {
    table.word(table.word(12) as usize + GLYPH_WORDS * glyph as usize + 6) as i32
}

/// Hundredths of a score, rounded half up; integer arithmetic, so that no compiler can fuse it.
fn hundredths(score: f32) -> u32 {
    if !is_finite(score.to_bits()) {
        return 0;
    }
    let fraction = (score.clamp(0.0, 1.0) * 16_777_216.0) as u32;
    (fraction * 100 + 8_388_608) >> 24
}

/// What stands in a label's bar.
struct Label {
    /// The box.
    outer: [i32; 4],
    size_px: [i32; 2],
    glyphs: u32,
    has_score: bool,
    score_glyphs: [u32; 4],
}

/// The label of a detection; `None` where none is drawn.
fn label_of(d: &RawDetection, table: &LabelTable) -> Option<Label> {
    let outer = outer_rect(d, table)?;
    let entry = label_entry(d, table);
    let (has_label, has_score) = (table.word(1) & 1 != 0, table.word(1) & 2 != 0);
    let glyphs = if has_label { table.word(entry + 1) } else { 0 };
    if glyphs == 0 && !has_score {
        return None;
    }
    let (digit_0, stop, space) = (table.word(13), table.word(14), table.word(15));
    let h = hundredths(d.score);
    let score_glyphs = [digit_0 + h / 100, stop, digit_0 + h / 10 % 10, digit_0 + h % 10];
    let mut text_px = 0;
    if glyphs > 0 {
        text_px += table.word(entry + 2) as i32;
    }
    if has_score {
        if glyphs > 0 {
            text_px += advance(space, table);
        }
        for glyph in score_glyphs {
            text_px += advance(glyph, table);
        }
    }
    let size_px = [text_px + 2 * table.word(10) as i32, table.word(9) as i32];
    Some(Label { outer, size_px, glyphs, has_score, score_glyphs })
}

/// Where a bar may stand: above the box (inside it where there is no room), below it, or above with room for another bar in
/// between, each at its left or its right; at last inside. Always inside the target.
const PLACES: u32 = 7;

fn bar(label: &Label, place: u32, table: &LabelTable) -> [i32; 4] {
    let (o, [width, height], line_px) = (label.outer, label.size_px, table.word(8) as i32);
    let above = o[1] + line_px - height;
    let left = if place.is_multiple_of(2) { o[0] } else { o[2] - width };
    let top = match place / 2 {
        0 if above >= 0 => above,
        1 => o[3] - line_px,
        2 => above - height - 3 * OUTLINE_PX,
        _ => o[1],
    };
    let left = left.min(table.word(2) as i32 - width).max(0);
    let top = top.min(table.word(3) as i32 - height).max(0);
    [left, top, left + width, top + height]
}

/// The best so many labels look for a place; the rest stands at the first.
const PLACED_LABELS: usize = 32;

/// Whether two rectangles share a pixel; an empty first one shares none.
fn overlap(a: [i32; 4], b: [i32; 4]) -> bool {
    a[2] > a[0] && a[3] > a[1] && a[2] > b[0] && b[2] > a[0] && a[3] > b[1] && b[3] > a[1]
}

/// The places of the labels that look for one, best first: each takes the first where it covers neither a bar before it nor
/// the box of another, else the first where it covers no bar, else the first.
fn place_labels(detections: &[RawDetection], table: &LabelTable) -> Vec<u32> {
    let detections = &detections[..detections.len().min(PLACED_LABELS)];
    // Their edges may be covered: a bar above one of two boxes side by side reaches into the other's.
    let edge_px = table.word(8) as i32 + 2 * OUTLINE_PX;
    let inside = |d| shrink(outer_rect(d, table).unwrap_or_default(), edge_px);
    let boxes: Vec<[i32; 4]> = detections.iter().map(inside).collect();
    let mut bars: Vec<[i32; 4]> = Vec::with_capacity(detections.len());
    let place = |(i, d): (usize, &RawDetection)| {
        let Some(label) = label_of(d, table) else { return 0 };
        // One pixel is left between the dark lines of neighbours.
        let room = |place: u32| shrink(bar(&label, place, table), -2 * OUTLINE_PX);
        let covers_bar = |r: [i32; 4]| bars.iter().any(|b| overlap(*b, r));
        let covers_box = |r: [i32; 4]| boxes.iter().enumerate().any(|(j, b)| j != i && overlap(*b, r));
        let mut free = (0..PLACES).filter(|&place| !covers_bar(room(place)));
        let first = free.clone().next().unwrap_or(0);
        let place = free.find(|&place| !covers_box(room(place))).unwrap_or(first);
        bars.push(bar(&label, place, table));
        place
    };
    detections.iter().enumerate().map(place).collect()
}

/// The bar of a label and its text.
fn emit_label(d: &RawDetection, place: u32, table: &LabelTable, cursor: &mut Cursor) {
    let Some(label) = label_of(d, table) else { return };
    let entry = label_entry(d, table);
    let Label { glyphs, has_score, score_glyphs, .. } = label;
    let bar = bar(&label, place, table);
    cursor.emit(shrink(bar, -OUTLINE_PX), [0, 0], table.word(entry + 5), SOLID);
    cursor.emit(bar, [0, 0], table.word(entry + 3), SOLID);

    let ink = table.word(entry + 4);
    let baseline = bar[1] + table.word(11) as i32;
    let mut pen = bar[0] + table.word(10) as i32;
    for k in 0..glyphs {
        let glyph = table.word((table.word(entry) + k) as usize);
        pen = emit_glyph(glyph, [pen, baseline], ink, table, cursor);
    }
    if has_score {
        if glyphs > 0 {
            pen += advance(table.word(15), table);
        }
        for glyph in score_glyphs {
            pen = emit_glyph(glyph, [pen, baseline], ink, table, cursor);
        }
    }
}

/// A square on the pixel of each point, with a dark line around it; nothing where the point lies outside the target.
fn emit_points(d: &RawDetection, points_px: &[[f32; 2]], table: &LabelTable, cursor: &mut Cursor) {
    let entry = label_entry(d, table);
    if table.word(entry + 6) != 0 {
        return;
    }
    let half_px = table.word(8) as i32;
    for point in points_px {
        if !point.iter().all(|v| is_finite(v.to_bits())) {
            continue;
        }
        let at = [0, 1].map(|axis| {
            (point[axis] * f32::from_bits(table.word(4 + axis)) + f32::from_bits(table.word(6 + axis))).floor()
        });
        let is_inside = |axis: usize| at[axis] >= 0.0 && at[axis] < cursor.target_px[axis] as f32;
        if !(is_inside(0) && is_inside(1)) {
            continue;
        }
        let [x, y] = at.map(|v| v as i32);
        let square = [x - half_px, y - half_px, x + half_px + 1, y + half_px + 1];
        cursor.emit(shrink(square, -OUTLINE_PX), [0, 0], table.word(entry + 5), SOLID);
        cursor.emit(square, [0, 0], table.word(entry + 3), SOLID);
    }
}

/// As [`lay_out_with_points`], for detections without points.
pub fn lay_out(detections: &[RawDetection], table: &LabelTable, capacity: usize) -> Vec<Instance> {
    lay_out_with_points(detections, &PointList::default(), table, capacity)
}

/// The rectangles of `detections` (best first, bounds in pixels of the picture, class = place in the table) and of their
/// points: all boxes, then all labels, then all points, each from the worst to the best. No more than `capacity`; the rest
/// is left out.
pub fn lay_out_with_points(
    detections: &[RawDetection],
    points: &PointList,
    table: &LabelTable,
    capacity: usize,
) -> Vec<Instance> {
    let mut list = Vec::new();
    let mut cursor = Cursor::new(table, capacity, &mut list);
    emit_boxes(detections, table, &mut cursor);
    emit_labels(detections, table, &mut cursor);
    for (i, d) in detections.iter().enumerate().rev() {
        emit_points(d, points.of_detection(i), table, &mut cursor);
    }
    list
}

/// The boxes of [`lay_out`] alone.
pub(super) fn lay_out_boxes(detections: &[RawDetection], table: &LabelTable) -> Vec<Instance> {
    let mut list = Vec::new();
    emit_boxes(detections, table, &mut Cursor::new(table, usize::MAX, &mut list));
    list
}

/// The labels of [`lay_out`] alone.
pub(super) fn lay_out_labels(detections: &[RawDetection], table: &LabelTable) -> Vec<Instance> {
    let mut list = Vec::new();
    emit_labels(detections, table, &mut Cursor::new(table, usize::MAX, &mut list));
    list
}

fn emit_boxes(detections: &[RawDetection], table: &LabelTable, cursor: &mut Cursor) {
    for d in detections.iter().rev() {
        emit_box(d, table, cursor);
    }
}

fn emit_labels(detections: &[RawDetection], table: &LabelTable, cursor: &mut Cursor) {
    let places = place_labels(detections, table);
    for (i, d) in detections.iter().enumerate().rev() {
        emit_label(d, places.get(i).copied().unwrap_or(0), table, cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(bounds: [f32; 4], class: u32) -> RawDetection {
        RawDetection { bounds, score: 0.5, class, anchor: 0, reserved: 0 }
    }

    #[test]
    fn capacity_cuts_the_end() {
        let style = Style::default();
        let atlas = style.atlas([640, 480]);
        let table = LabelTable::new([(0, "person"), (1, "bicycle")], [640, 480], &style, &atlas);
        let detections = [raw([10.0, 50.0, 90.0, 90.0], 0), raw([10.0, 50.0, 90.0, 90.0], 1)];
        let whole = lay_out(&detections, &table, usize::MAX);
        assert_eq!(lay_out(&detections, &table, 9), whole[..9]);
        assert_eq!(lay_out(&[raw([10.0, 50.0, 90.0, 90.0], 77)], &table, 4)[..4], lay_out(&detections[1..], &table, 4));
        let empty = LabelTable::new(Vec::<(u32, &str)>::new(), [640, 480], &style, &atlas);
        let _ = lay_out(&detections, &empty, usize::MAX);
    }

    #[test]
    fn a_window_shows_boxes_scaled() {
        let style = Style { labels: false, scores: false, line_px: Some(1), text_px: None };
        let atlas = style.atlas([100, 100]);
        let table =
            LabelTable::new([(0, "a")], [100, 100], &style, &atlas).on_target([300, 250], [2.0, 2.0], [50.0, 25.0]);
        let list = lay_out(&[raw([10.0, 20.0, 30.0, 40.0], 0)], &table, usize::MAX);
        assert_eq!(list[4].rect_px, [70, 65, 110, 66]);
        let points = PointList { per_detection: 2, points: vec![[10.9, 20.2], [f32::NAN, 1.0]] };
        let marked = lay_out_with_points(&[raw([10.0, 20.0, 30.0, 40.0], 0)], &points, &table, usize::MAX);
        let marks: Vec<_> = marked[list.len()..].iter().map(|i| i.rect_px).collect();
        assert_eq!(marks, [[69, 63, 74, 68], [70, 64, 73, 67]]);
        let hidden = table.clone().only(|_| false);
        assert!(lay_out_with_points(&[raw([10.0, 20.0, 30.0, 40.0], 0)], &points, &hidden, usize::MAX).is_empty());
        let table = table.on_target([0, 0], [f32::NAN, f32::INFINITY], [f32::NAN; 2]);
        assert!(lay_out_with_points(&[raw([10.0, 20.0, 30.0, 40.0], 0)], &points, &table, usize::MAX).is_empty());
    }

    #[test]
    fn labels_do_not_cover_each_other_where_there_is_room() {
        let style = Style::default();
        let atlas = style.atlas([640, 480]);
        let table = LabelTable::new([(0, "person")], [640, 480], &style, &atlas);
        // Neighbours in a row, one on another, and at the target's corners.
        let mut detections: Vec<_> =
            (0..4).map(|i| raw([50.0 + 60.0 * i as f32, 200.0, 100.0 + 60.0 * i as f32, 260.0], 0)).collect();
        detections.extend([raw([400.0, 100.0, 500.0, 200.0], 0), raw([402.0, 102.0, 502.0, 202.0], 0)]);
        detections.extend([raw([0.0, 0.0, 30.0, 30.0], 0), raw([600.0, 440.0, 640.0, 480.0], 0)]);
        let places = place_labels(&detections, &table);
        assert_eq!((places[0], places[1]), (0, 2), "beside a label there is room below");
        let bars: Vec<_> = detections
            .iter()
            .zip(&places)
            .map(|(d, &place)| bar(&label_of(d, &table).expect("drawn"), place, &table))
            .collect();
        for (i, a) in bars.iter().enumerate() {
            assert!(a[0] >= 0 && a[1] >= 0 && a[2] <= 640 && a[3] <= 480, "{a:?}");
            for b in &bars[..i] {
                assert!(!overlap(*a, *b), "{a:?} {b:?}");
            }
        }
        for (i, a) in bars.iter().enumerate().take(4) {
            for (j, d) in detections.iter().enumerate().take(4) {
                let inside = shrink(outer_rect(d, &table).expect("drawn"), 5);
                assert!(i == j || !overlap(inside, *a), "the label of {i} covers the box of {j}");
            }
        }
        // More than there are places for on one box.
        let places = place_labels(&[raw([300.0, 100.0, 600.0, 200.0], 0); 40], &table);
        assert_eq!(places[..8], [0, 1, 2, 3, 4, 5, 0, 0]);
        assert_eq!(places.len(), PLACED_LABELS);
    }

    #[test]
    fn hundredths_round_half_up() {
        for k in 0..=10_000u32 {
            let score = k as f32 / 10_000.0;
            let expected = (f64::from(score) * 100.0 + 0.5).floor() as i64;
            assert!((i64::from(hundredths(score)) - expected).abs() <= i64::from(k % 100 == 50), "{score}");
        }
        assert_eq!([0.125, 0.375, 1.0, 2.0].map(hundredths), [13, 38, 100, 100]);
    }
}
