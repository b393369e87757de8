//! Names of classes: built in, from a model's metadata, or from a text file.

use std::path::{Path, PathBuf};

use super::head::DecodeError;

/// The 80 classes of the COCO data set (Lin et al., arXiv 1405.0312) in the order that detectors number them.
pub const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// Most classes that a label file may name.
const MAX_CLASSES: usize = 1 << 20;

/// Names by class number; what has no name is called `class N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
}

impl Labels {
    pub fn new(names: Vec<String>) -> Labels {
        Labels { names }
    }

    /// The 80 of COCO.
    pub fn coco() -> Labels {
        Labels::new(COCO.iter().map(|s| (*s).to_string()).collect())
    }

    /// The one class of face detectors.
    pub fn faces() -> Labels {
        Labels::new(vec!["face".to_string()])
    }

    /// What a detector with that many classes most likely means: COCO for 80, no names otherwise.
    pub fn usual(classes: usize) -> Labels {
        if classes == COCO.len() { Labels::coco() } else { Labels::default() }
    }

    /// The name of a class.
    pub fn name(&self, class: u32) -> String {
        match self.names.get(class as usize) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("class {class}"),
        }
    }

    /// The number of the class with that name, or of `class N` or `N`.
    pub fn class(&self, name: &str) -> Option<u32> {
        let number = || name.strip_prefix("class ").unwrap_or(name).trim().parse().ok();
        self.names.iter().position(|n| n == name).map(|i| i as u32).or_else(number)
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// One name a line, as in Darknet's `.names` files. Blank lines at the end do not count.
    pub fn from_lines(text: &str) -> Labels {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut names: Vec<String> = text.lines().map(|l| l.trim().to_string()).collect();
        while names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        Labels::new(names)
    }

    /// The value of the metadata key `names` that the ultralytics exporter writes: a Python dict
    /// `{0: 'person', 1: "driver's cab"}` or list `['person', …]`.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn from_metadata(text: &str) -> Result<Labels, DecodeError> {
        parse_python(text.trim()).map(Labels::new).ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            DecodeError::Labels(format!(
                "the metadata 'names' of the model is no Python dict or list of strings: {shown}; \
                 give the names with --labels FILE"
            ))
        })
    }

    /// Names from a text file.
    ///
    /// # Errors
    /// When the file cannot be read or names no class.
    pub fn read(path: &Path) -> Result<Labels, DecodeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| DecodeError::Labels(format!("cannot read the labels {}: {e}", path.display())))?;
        let labels = Labels::from_lines(&text);
        if labels.is_empty() || labels.names.len() > MAX_CLASSES {
            return Err(DecodeError::Labels(format!("{} should name one class a line", path.display())));
        }
        Ok(labels)
    }

    /// Names from a `.names` file beside a model: `MODEL.names`, or else the only `.names` file in the folder. `None`
    /// when there is none or it does not name exactly `classes` classes.
    pub fn beside(model: &Path, classes: usize) -> Option<Labels> {
        let fits = |path: &PathBuf| Labels::read(path).ok().filter(|l| l.names.len() == classes);
        let own = model.with_extension("names");
        if own.is_file() {
            return fits(&own);
        }
        let folder = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut found = std::fs::read_dir(folder)
            .ok()?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "names"));
        match (found.next(), found.next()) {
            (Some(only), None) => fits(&only),
            _ => None,
        }
    }
}

/// Strings of a Python dict with integer keys or of a list, by index.
fn parse_python(text: &str) -> Option<Vec<String>> {
    let (keyed, inner) = if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        (true, inner)
    } else {
        (false, text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))?)
    };
    let mut names: Vec<String> = Vec::new();
    let mut rest = inner.trim_start();
    while !rest.is_empty() {
        let index = if keyed {
            let (key, tail) = rest.split_once(':')?;
            rest = tail.trim_start();
            key.trim().trim_matches(['\'', '"']).parse::<usize>().ok().filter(|&i| i < MAX_CLASSES)?
        } else {
            names.len()
        };
        let (name, tail) = python_string(rest)?;
        rest = tail.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(tail) => tail.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
        if names.len() <= index {
            names.resize(index + 1, String::new());
        }
        names[index] = name;
    }
    (!names.is_empty()).then_some(names)
}

/// A quoted Python string at the start of the text, and what follows it.
fn python_string(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                'n' => name.push('\n'),
                't' => name.push('\t'),
                other @ ('\\' | '\'' | '"') => name.push(other),
                // Escapes by number: keep them as they are written.
                other => name.extend(['\\', other]),
            },
            c if c == quote => return Some((name, &text[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_dicts_and_lists() {
        let names = |t: &str| Labels::from_metadata(t).map(|l| l.names);
        let strings = |n: &[&str]| Ok(n.iter().map(|s| (*s).to_string()).collect::<Vec<_>>());
        assert_eq!(
            names("{0: 'person', 1: \"driver's cab\", 3: 'a, b: c',}"),
            strings(&["person", "driver's cab", "", "a, b: c"])
        );
        assert_eq!(names("{'0': 'head', '1': 'it\\'s'}"), strings(&["head", "it's"]));
        assert_eq!(names("['a', 'b']"), strings(&["a", "b"]));
        for bad in
            ["", "{}", "person", "{0: person}", "{0: 'a' 1: 'b'}", "{x: 'a'}", "{99999999999: 'a'}", "['a'", "{0: 'a}"]
        {
            assert!(names(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_numbers() {
        let labels = Labels::coco();
        assert_eq!(
            (labels.name(16), labels.name(79), labels.name(80)),
            ("dog".into(), "toothbrush".into(), "class 80".into())
        );
        assert_eq!((labels.class("dog"), labels.class("class 7"), labels.class("8")), (Some(16), Some(7), Some(8)));
        assert_eq!(labels.class("unicorn"), None);
        assert_eq!(Labels::usual(3).name(2), "class 2");
        assert_eq!(Labels::from_lines("a\r\n b \n\n").names(), ["a", "b"]);
    }

    #[test]
    fn files_beside_a_model() {
        let folder = std::env::temp_dir().join(format!("eyas-labels-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("coco.names"), "x\ny\n").unwrap();
        let model = folder.join("net.cfg");
        assert_eq!(Labels::beside(&model, 2).unwrap().names(), ["x", "y"]);
        assert_eq!(Labels::beside(&model, 3), None);
        std::fs::write(folder.join("other.names"), "z\n").unwrap();
        assert_eq!(Labels::beside(&model, 2), None, "two files: neither is chosen");
        std::fs::write(folder.join("net.names"), "p\nq\n").unwrap();
        assert_eq!(Labels::beside(&model, 2).unwrap().names(), ["p", "q"]);
        assert!(Labels::read(&folder.join("none.names")).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
