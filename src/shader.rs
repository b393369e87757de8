//! Shader variants: a plain, valid `.wgsl` file with some of its one-line declarations replaced.
//!
//! A shader declares what varies as lines of its own: `const NAME: u32 = 1u;`, `alias S = f32;`,
//! `fn activate(x: f32) -> f32 { return x; }`, `var<storage, read> src: array<vec4<f32>>;`. The host names the
//! declaration and gives the new line. The file alone is valid WGSL, so editors and naga can read it. No GPU types
//! here: every variant can be made and validated on any machine.

use std::fmt::Write as _;

/// How activations and weights are stored in GPU buffers. Arithmetic is f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    F32,
    /// Native 16-bit floats; needs the device feature SHADER_F16.
    F16,
}

impl Precision {
    pub const fn size_bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::F16 => 2,
        }
    }
}

/// A shader with its constants filled in, and how many workgroups to dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The file's stem, for messages.
    pub stem: &'static str,
    /// The final WGSL text; equal text means equal pipeline, so it is the cache key.
    pub source: String,
    pub workgroups: [u32; 3],
}

impl Variant {
    /// For steps that no device runs.
    pub fn none(stem: &'static str) -> Variant {
        Variant { stem, source: String::new(), workgroups: [0, 1, 1] }
    }
}

/// Builds a [`Variant`] from a file's text by replacing declarations.
#[derive(Clone, Debug)]
pub struct VariantBuilder {
    stem: &'static str,
    source: String,
}

impl VariantBuilder {
    /// Starts from the text of `shaders/<stage>/<stem>.wgsl`.
    pub fn new(stem: &'static str, source: &str) -> VariantBuilder {
        VariantBuilder { stem, source: source.to_string() }
    }

    /// Replaces the line that starts with `const NAME:` by one that declares a `u32`.
    #[must_use]
    pub fn u32(self, name: &str, value: usize) -> Self {
        self.line(&format!("const {name}:"), &format!("const {name}: u32 = {value}u;"))
    }

    /// As [`VariantBuilder::u32`], for `i32`.
    #[must_use]
    pub fn i32(self, name: &str, value: i64) -> Self {
        self.line(&format!("const {name}:"), &format!("const {name}: i32 = {value}i;"))
    }

    /// As [`VariantBuilder::u32`], for `f32`; the value is written so that it reads back exactly.
    #[must_use]
    pub fn f32(self, name: &str, value: f32) -> Self {
        self.line(&format!("const {name}:"), &format!("const {name}: f32 = {};", f32_literal(value)))
    }

    /// As [`VariantBuilder::u32`], for `bool`.
    #[must_use]
    pub fn bool(self, name: &str, value: bool) -> Self {
        self.line(&format!("const {name}:"), &format!("const {name}: bool = {value};"))
    }

    /// Replaces a whole declaration line, found by how it starts.
    ///
    /// # Panics
    /// When the shader has no such line: shader and twin have drifted apart, which the validation test catches.
    #[must_use]
    pub fn line(mut self, start: &str, replacement: &str) -> Self {
        let at = if self.source.starts_with(start) {
            Some(0)
        } else {
            self.source.find(&format!("\n{start}")).map(|i| i + 1)
        };
        let Some(at) = at else { panic!("shader {} has no line that starts with '{start}'", self.stem) };
        let end = self.source[at..].find('\n').map_or(self.source.len(), |i| at + i);
        self.source.replace_range(at..end, replacement);
        self
    }

    /// Appends the text of a shared snippet (from `shaders/common/`).
    #[must_use]
    pub fn include(mut self, snippet: &str) -> Self {
        self.source.push('\n');
        self.source.push_str(snippet);
        self
    }

    /// Switches `alias S`, the scalar that buffers are made of, and enables f16 where needed.
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        match precision {
            Precision::F32 => self,
            Precision::F16 => {
                let mut v = self.line("alias S =", "alias S = f16;");
                v.source.insert_str(0, "enable f16;\n");
                v
            }
        }
    }

    /// Finishes the variant: expands every block from a line `//unroll NAME COUNT` to the matching `//end` textually.
    ///
    /// COUNT is a number or a `const` of the file. In copy k, NAME becomes `k` where it is a word of its own and where
    /// it is a part of a word between underscores: with NAME `ti`, `acc_ti` becomes `acc_0`, `acc_1`, ... Blocks
    /// nest. So that the file is valid before expansion, it declares `const ti: u32 = 0u;`. Register tiles need this:
    /// naga writes loops that the Metal compiler does not unroll, and an array indexed by a loop leaves registers.
    #[must_use]
    pub fn build(self, workgroups: [u32; 3]) -> Variant {
        Variant { stem: self.stem, source: unroll(&self.source, self.stem), workgroups }
    }
}

/// A WGSL literal that reads back to exactly this value.
pub fn f32_literal(value: f32) -> String {
    let mut text = String::new();
    if value == f32::INFINITY || value > f32::MAX {
        text.push_str("3.40282347e38");
    } else if value == f32::NEG_INFINITY || value < f32::MIN {
        text.push_str("-3.40282347e38");
    } else {
        // `{:?}` is the shortest text that reads back exactly.
        let _ = write!(text, "{value:?}");
    }
    text.push('f');
    text
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Replaces `name` by a number in every word of which it is a part between underscores.
fn substitute(text: &str, name: &str, value: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(length);
        if is_word(first) && run.contains(name) {
            let value = value.to_string();
            let parts: Vec<&str> = run.split('_').map(|p| if p == name { value.as_str() } else { p }).collect();
            out.push_str(&parts.join("_"));
        } else {
            out.push_str(run);
        }
        rest = tail;
    }
    out
}

/// See [`VariantBuilder::build`].
fn unroll(source: &str, stem: &str) -> String {
    let count_of = |word: &str| -> usize {
        word.parse().ok().unwrap_or_else(|| {
            let start = format!("const {word}: u32 = ");
            source
                .lines()
                .find_map(|l| l.strip_prefix(start.as_str()))
                .and_then(|rest| rest.trim_end().trim_end_matches(';').trim_end_matches('u').parse().ok())
                .unwrap_or_else(|| panic!("shader {stem}: unroll count '{word}' is no constant"))
        })
    };
    fn expand(lines: &[&str], count_of: &dyn Fn(&str) -> usize, stem: &str) -> String {
        let mut out = String::new();
        let mut i = 0;
        while i < lines.len() {
            let Some(head) = lines[i].trim().strip_prefix("//unroll ") else {
                out.push_str(lines[i]);
                out.push('\n');
                i += 1;
                continue;
            };
            let mut words = head.split_whitespace();
            let (name, count) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let mut depth = 1;
            let mut end = i + 1;
            while depth > 0 {
                let Some(line) = lines.get(end) else { panic!("shader {stem}: '//unroll {name}' has no '//end'") };
                match line.trim() {
                    l if l.starts_with("//unroll ") => depth += 1,
                    "//end" => depth -= 1,
                    _ => {}
                }
                end += 1;
            }
            let body = expand(&lines[i + 1..end - 1], count_of, stem);
            for k in 0..count_of(count) {
                out.push_str(&substitute(&body, name, k));
            }
            i = end;
        }
        out
    }
    let lines: Vec<&str> = source.lines().collect();
    expand(&lines, &count_of, stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_declarations_and_unrolls() {
        let file = "const N: u32 = 1u;\nalias S = f32;\nfn f() {\n//unroll i N\n//unroll j 2\n  a_i_j(i, j, x_in);\n//end\n//end\n}\n";
        let v = VariantBuilder::new("t", file).u32("N", 2).precision(Precision::F16).build([1, 1, 1]);
        assert_eq!(
            v.source,
            "enable f16;\nconst N: u32 = 2u;\nalias S = f16;\nfn f() {\n  a_0_0(0, 0, x_in);\n  a_0_1(0, 1, x_in);\n  a_1_0(1, 0, x_in);\n  a_1_1(1, 1, x_in);\n}\n"
        );
    }

    #[test]
    fn literals_read_back() {
        for v in [0.1f32, -1e-30, 3.0, 1e20, f32::MAX] {
            let text = f32_literal(v);
            assert_eq!(text.trim_end_matches('f').parse::<f32>(), Ok(v), "{text}");
        }
        assert_eq!(f32_literal(f32::INFINITY), "3.40282347e38f");
    }

    #[test]
    #[should_panic(expected = "no line")]
    fn missing_declaration_is_caught() {
        let _ = VariantBuilder::new("t", "const A: u32 = 1u;").u32("B", 1);
    }
}
