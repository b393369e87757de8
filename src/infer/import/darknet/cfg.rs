//! The `.cfg` text: sections of `key=value` lines.
//!
//! Every space, tab and carriage return is dropped, inside a line too. A line that starts with `#` or `;` is a
//! comment, one that starts with `[` opens a section, any other is `key=value`, split at the first `=`. Where a key
//! occurs twice in a section the first one counts. Numbers are read as C's `atoi` and `atof` do: the leading number,
//! whatever follows it ignored; but a value without any number is an error here, where Darknet takes 0.

use std::cell::Cell;
use std::str::FromStr;

use crate::infer::import::ImportError;

/// Longest text that is read, in bytes. The longest public cfg has 80 kB.
const TEXT_MAX_BYTES: usize = 4 << 20;
/// Most sections; the deepest public cfg has 375.
const SECTIONS_MAX: usize = 4096;
/// Most numbers in one list.
const LIST_MAX: usize = 4096;

#[derive(Debug)]
struct Entry {
    key: String,
    value: String,
    used: Cell<bool>,
}

/// One section, with its keys in the order of the file.
#[derive(Debug)]
pub struct Section {
    /// What stands between the brackets.
    pub kind: String,
    /// Line of its header in the file, from 1.
    pub line: usize,
    entries: Vec<Entry>,
}

/// Splits a cfg into its sections.
///
/// # Errors
/// A line that is neither a comment, a header nor `key=value`, a key before the first header, and absurd sizes.
/// A line with nothing after `=` is skipped with a warning, as Darknet does.
pub fn parse(text: &str) -> Result<Vec<Section>, ImportError> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(ImportError::malformed(format!(
            "the cfg has {} bytes, more than the {TEXT_MAX_BYTES} that are read",
            text.len()
        )));
    }
    let mut sections: Vec<Section> = Vec::new();
    for (i, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = i + 1;
        let line: String = raw.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).collect();
        if line.is_empty() || line.starts_with(['#', ';', '\0']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let Some((kind, _)) = header.split_once(']') else {
                return Err(ImportError::malformed(format!("cfg line {number}: section header '{line}' has no ']'")));
            };
            if sections.len() == SECTIONS_MAX {
                return Err(ImportError::malformed(format!("the cfg has more than {SECTIONS_MAX} sections")));
            }
            sections.push(Section { kind: kind.to_string(), line: number, entries: Vec::new() });
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let shown: String = line.chars().take(60).collect();
            return Err(ImportError::malformed(format!("cfg line {number}: '{shown}' is not key=value")));
        };
        let Some(section) = sections.last_mut() else {
            return Err(ImportError::malformed(format!("cfg line {number}: '{key}' stands before the first section")));
        };
        if value.is_empty() {
            log::warn!("cfg line {number}: nothing after '{key}='; the line is skipped");
            continue;
        }
        section.entries.push(Entry { key: key.to_string(), value: value.to_string(), used: Cell::new(false) });
    }
    Ok(sections)
}

/// The longest leading part of `text` that is a number, like C's `atof` (or `atoi` with `integer`).
fn leading_number(text: &str, integer: bool) -> &str {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let sign = |at: usize| at + usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    let start = sign(0);
    let mut end = digits(start);
    if integer {
        return if end > start { &text[..end] } else { "" };
    }
    let mut mantissa_digits = end - start;
    if bytes.get(end) == Some(&b'.') {
        let after = digits(end + 1);
        mantissa_digits += after - end - 1;
        end = after;
    }
    if mantissa_digits == 0 {
        return "";
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let exponent = sign(end + 1);
        let after = digits(exponent);
        if after > exponent {
            end = after;
        }
    }
    &text[..end]
}

impl Section {
    fn raw(&self, key: &str) -> Option<&str> {
        let mut found = None;
        for entry in self.entries.iter().filter(|e| e.key == key) {
            entry.used.set(true);
            found = found.or(Some(entry.value.as_str()));
        }
        found
    }

    fn number<T: FromStr>(&self, key: &str, text: &str, integer: bool) -> Result<T, ImportError> {
        leading_number(text, integer).trim_start_matches('+').parse().map_err(|_| {
            let kind = if integer { "a whole number in range" } else { "a number" };
            let shown: String = text.chars().take(40).collect();
            ImportError::malformed(format!(
                "cfg section [{}] at line {}: {key}={shown} is not {kind}",
                self.kind, self.line
            ))
        })
    }

    /// True where the section has this key.
    pub fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// A string value.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.raw(key).unwrap_or(default)
    }

    /// A signed whole number.
    pub fn integer(&self, key: &str, default: i64) -> Result<i64, ImportError> {
        self.raw(key).map_or(Ok(default), |text| self.number(key, text, true))
    }

    /// A whole number that cannot be negative.
    pub fn count(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        let value = self.integer(key, i64::try_from(default).unwrap_or(i64::MAX))?;
        u32::try_from(value).map(|v| v as usize).map_err(|_| {
            ImportError::malformed(format!(
                "cfg section [{}] at line {}: {key}={value} is out of range",
                self.kind, self.line
            ))
        })
    }

    /// A whole number of 1 or more.
    pub fn positive(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        match self.count(key, default)? {
            0 => Err(ImportError::malformed(format!(
                "cfg section [{}] at line {}: {key} must be at least 1, not 0",
                self.kind, self.line
            ))),
            n => Ok(n),
        }
    }

    /// A flag: any number but 0.
    pub fn flag(&self, key: &str) -> Result<bool, ImportError> {
        Ok(self.integer(key, 0)? != 0)
    }

    fn finite(&self, key: &str, text: &str) -> Result<f32, ImportError> {
        let value: f32 = self.number(key, text, false)?;
        if value.is_finite() {
            return Ok(value);
        }
        Err(ImportError::malformed(format!(
            "cfg section [{}] at line {}: {key}={value} is out of range",
            self.kind, self.line
        )))
    }

    /// A finite number.
    pub fn float(&self, key: &str, default: f32) -> Result<f32, ImportError> {
        self.raw(key).map_or(Ok(default), |text| self.finite(key, text))
    }

    fn list(&self, key: &str) -> Result<Option<Vec<&str>>, ImportError> {
        let Some(text) = self.raw(key) else { return Ok(None) };
        let text = text.split('#').next().unwrap_or_default();
        let items: Vec<&str> = text.split(',').filter(|item| !item.is_empty()).collect();
        if items.is_empty() || items.len() > LIST_MAX {
            return Err(ImportError::malformed(format!(
                "cfg section [{}] at line {}: {key} lists {} numbers; 1 to {LIST_MAX} are read",
                self.kind,
                self.line,
                items.len()
            )));
        }
        Ok(Some(items))
    }

    /// A list of signed whole numbers, separated by commas.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, ImportError> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        items.iter().map(|item| self.number(key, item, true)).collect::<Result<_, _>>().map(Some)
    }

    /// A list of finite numbers, separated by commas.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ImportError> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        items.iter().map(|item| self.finite(key, item)).collect::<Result<_, _>>().map(Some)
    }

    /// Keys that nobody asked for: training settings mostly.
    pub fn unused_keys(&self) -> Vec<&str> {
        self.entries.iter().filter(|e| !e.used.get()).map(|e| e.key.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, integer, expected) in [
            ("0.5#text", false, "0.5"),
            ("-5", true, "-5"),
            ("+7x", true, "+7"),
            (".1,.2", false, ".1"),
            ("4e-5", false, "4e-5"),
            ("4e", false, "4"),
            ("1.5", true, "1"),
            ("3.", false, "3."),
            ("abc", false, ""),
            ("-", true, ""),
            (".", false, ""),
        ] {
            assert_eq!(leading_number(text, integer), expected, "{text}");
        }
    }

    #[test]
    fn oddities_of_real_files() {
        let text = "\u{feff}# comment\r\n; other\r\n[net]\r\n width = 416 \r\n\t he ight=32 # pixels\r\nwidth=9\r\nempty=\r\n\
                    [ yolo ]\r\nanchors = 12, 18,  37,49.5 # old: 1,2\r\nmask=0,1,\r\nscale=+.5\r\n";
        let sections = parse(text).unwrap();
        assert_eq!(sections.len(), 2);
        let net = &sections[0];
        assert_eq!((net.kind.as_str(), net.line), ("net", 3));
        assert_eq!(net.count("width", 0).unwrap(), 416);
        assert_eq!(net.count("height", 0).unwrap(), 32);
        assert!(!net.has("empty"));
        let yolo = &sections[1];
        assert_eq!(yolo.kind, "yolo");
        assert_eq!(yolo.floats("anchors").unwrap().unwrap(), [12.0, 18.0, 37.0, 49.5]);
        assert_eq!(yolo.integers("mask").unwrap().unwrap(), [0, 1]);
        assert_eq!(yolo.float("scale", 0.0).unwrap(), 0.5);
        assert_eq!(yolo.integers("absent").unwrap(), None);
        assert!(yolo.unused_keys().is_empty() && net.unused_keys().is_empty());
    }

    #[test]
    fn damaged_texts_are_errors_with_a_place() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(message("[net\nwidth=1").contains("line 1"));
        assert!(message("[net]\nwidth").contains("line 2"));
        assert!(message("width=3").contains("before the first section"));
        assert!(message(&"[a]\n".repeat(SECTIONS_MAX + 1)).contains("sections"));
        let sections = parse("[net]\na=x\nb=99999999999999999999\nc=-1\nd=0\ne=#\nf=99999999999").unwrap();
        let net = &sections[0];
        assert!(net.integer("a", 0).unwrap_err().to_string().contains("a=x"));
        assert!(net.integer("b", 0).is_err() && net.count("c", 0).is_err() && net.count("f", 0).is_err());
        assert!(net.positive("d", 1).unwrap_err().to_string().contains("at least 1"));
        assert!(net.floats("e").is_err());
    }
}
