//! A cfg whose every section is understood: layers with their shapes, and how many floats of the weights file each
//! takes. Nothing here touches the weights, so that a wrong pair of files is refused before memory is asked for.
//!
//! The arithmetic is that of the maintained Darknet fork (YOLOv4 and later); where the original of 2018 differs, the
//! section's doc says so.

use std::fmt;

use super::builder::{Builder, Site};
use super::cfg::Section;
use super::place::{Place, Refusal};
use super::sections::convolution::Convolution;
use super::sections::find;
use crate::infer::graph::ValueId;
use crate::infer::import::{ImportError, Unsupported};

/// Most elements of one feature map or one weights tensor: 512 MiB of f32.
pub const ELEMENTS_MAX: usize = 1 << 27;

/// A feature map without its batch axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    /// Channels × height × width; shapes in a [`Network`] are checked to have one.
    pub fn elements(self) -> usize {
        self.channels * self.height * self.width
    }

    /// As a shape of the graph.
    pub fn dims(self) -> [usize; 4] {
        [1, self.channels, self.height, self.width]
    }

    pub fn same_size(self, other: Shape) -> bool {
        (self.height, self.width) == (other.height, other.width)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// What a section computes: one struct per kind, made by the kind's `read`.
pub trait Layer: fmt::Debug {
    /// Resolves what depends on the input's shape, checks it, and returns the output's shape.
    fn place(&mut self, at: Place<'_>, input: Shape, before: &Before<'_>) -> Result<Shape, Refusal>;

    /// Floats that it takes from the weights file; `None` where the number does not fit in memory arithmetic.
    fn floats(&self, _input: Shape) -> Option<usize> {
        Some(0)
    }

    /// How many of [`Layer::floats`] files of the original code do not have.
    fn floats_of_fork(&self, _input: Shape) -> usize {
        0
    }

    /// Adds its nodes, and returns the value that layers behind it read.
    ///
    /// # Errors
    /// What only shows with the weights.
    fn build(&self, builder: &mut Builder<'_>, site: &Site<'_>) -> Result<ValueId, ImportError>;

    /// False where the layer before it has no part in it.
    fn reads_previous(&self) -> bool {
        true
    }

    /// True for detection heads, which leave the network raw, where Darknet hands on activated values.
    fn is_head(&self) -> bool {
        false
    }

    /// For `share_index`.
    fn as_convolution(&self) -> Option<&Convolution> {
        None
    }
}

/// A layer with its place in the network.
#[derive(Debug)]
pub struct Placed {
    /// Long name of its section, for node names and messages.
    pub kind: &'static str,
    pub layer: Box<dyn Layer>,
    pub input: Shape,
    pub output: Shape,
}

/// The layers before one that is being placed.
pub struct Before<'a>(pub &'a [Placed]);

impl Before<'_> {
    /// Output shape of a layer that another one reads.
    ///
    /// # Errors
    /// For heads.
    pub fn shape(&self, at: Place<'_>, index: usize) -> Result<Shape, Refusal> {
        match self.0.get(index) {
            Some(placed) if placed.layer.is_head() => {
                Err(at.unsupported(format!("reads the output of the [{}] section {index}", placed.kind)))
            }
            Some(placed) => Ok(placed.output),
            None => Err(at.malformed(format!("there is no layer {index} before it")).into()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Network {
    pub input: Shape,
    pub layers: Vec<Placed>,
    /// Darknet's `letter_box`: the picture keeps its aspect.
    pub letter_box: bool,
}

fn check_elements(shape: Shape) -> Result<(), String> {
    let Shape { channels, height, width } = shape;
    match channels.checked_mul(height).and_then(|n| n.checked_mul(width)) {
        Some(n) if n <= ELEMENTS_MAX => Ok(()),
        _ => Err(format!("a feature map of {shape} is above the limit of {ELEMENTS_MAX} elements")),
    }
}

/// floor((length + padding − size)/stride) + 1
pub fn window_steps(length: usize, padding: usize, size: usize, stride: usize) -> Option<usize> {
    Some(length.checked_add(padding)?.checked_sub(size)? / stride + 1)
}

/// Where a window does not fit.
pub fn no_window(size: usize, padding: usize, input: Shape) -> String {
    format!("size={size} with {padding} pixels of padding does not fit an input of {input}")
}

impl Network {
    /// Reads the sections and works out every shape. `size_px` replaces the width and height of `[net]`.
    ///
    /// # Errors
    /// All unsupported sections, keys and activations at once; or the first contradiction.
    pub fn read(sections: &[Section], name: &str, size_px: Option<[usize; 2]>) -> Result<Network, ImportError> {
        let not_a_model = |why: String| ImportError::NotAModel { name: name.to_string(), why };
        let Some((net, rest)) = sections.split_first() else {
            return Err(not_a_model("the cfg has no section".to_string()));
        };
        if !matches!(net.kind.as_str(), "net" | "network") {
            return Err(not_a_model(format!("a cfg begins with [net], this one with [{}]", net.kind)));
        }
        if rest.is_empty() {
            return Err(not_a_model("the cfg has no layer after [net]".to_string()));
        }
        if net.positive("time_steps", 1)? != 1 {
            return Err(ImportError::Unsupported(vec![Unsupported {
                node: format!("line {}", net.line),
                op: "[net]".to_string(),
                why: "time_steps above 1 (recurrent networks)".to_string(),
            }]));
        }
        let [width, height] = match size_px {
            Some(size) => size,
            None => [net.positive("width", 0)?, net.positive("height", 0)?],
        };
        let input = Shape { channels: net.positive("channels", 0)?, height, width };
        let letter_box = net.flag("letter_box")?;

        let mut read = Vec::with_capacity(rest.len());
        let mut unsupported = Vec::new();
        for (index, section) in rest.iter().enumerate() {
            let at = Place { section, index };
            let layer = find(at).and_then(|kind| Ok((kind.name, (kind.read)(at)?)));
            match layer {
                Ok(layer) => read.push(layer),
                Err(Refusal::Unsupported(one)) => unsupported.push(one),
                Err(Refusal::Stop(error)) => return Err(error),
            }
            let unused = section.unused_keys();
            if !unused.is_empty() {
                log::debug!("section {index} [{}]: ignored {}", section.kind, unused.join(", "));
            }
        }
        if !unsupported.is_empty() {
            return Err(ImportError::Unsupported(unsupported));
        }

        if input.width == 0 || input.height == 0 {
            return Err(ImportError::malformed("the input's width and height must be at least 1"));
        }
        check_elements(input).map_err(|why| ImportError::malformed(format!("[net]: {why}")))?;
        let mut layers: Vec<Placed> = Vec::with_capacity(read.len());
        for (index, (kind, mut layer)) in read.into_iter().enumerate() {
            let at = Place { section: &rest[index], index };
            let previous = layers.last().map_or(input, |l| l.output);
            let before = Before(&layers);
            let output = if index > 0 && layer.reads_previous() {
                before.shape(at, index - 1).and_then(|_| layer.place(at, previous, &before))
            } else {
                layer.place(at, previous, &before)
            };
            let output = output.map_err(|refusal| match refusal {
                Refusal::Unsupported(one) => ImportError::Unsupported(vec![one]),
                Refusal::Stop(error) => error,
            })?;
            check_elements(output).map_err(|why| at.malformed(why))?;
            layers.push(Placed { kind, layer, input: previous, output });
        }
        Ok(Network { input, layers, letter_box })
    }

    /// Floats that the weights file must hold: as the maintained fork writes it, and as the original does, whose
    /// `[batchnorm]` sections have no biases. `None` where the sum does not fit in memory arithmetic.
    pub fn floats(&self) -> Option<[usize; 2]> {
        let of_fork = self.layers.iter().try_fold(0usize, |n, l| n.checked_add(l.layer.floats(l.input)?))?;
        let less: usize = self.layers.iter().map(|l| l.layer.floats_of_fork(l.input)).sum();
        Some([of_fork, of_fork - less])
    }
}

#[cfg(test)]
mod tests {
    use super::super::cfg::parse;
    use super::*;

    fn read(text: &str) -> Result<Network, ImportError> {
        Network::read(&parse(text)?, "test.cfg", None)
    }

    fn outputs(text: &str) -> Vec<[usize; 3]> {
        let network = read(text).unwrap();
        network.layers.iter().map(|l| [l.output.channels, l.output.height, l.output.width]).collect()
    }

    fn message(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    const NET: &str = "[net]\nwidth=26\nheight=13\nchannels=3\n";

    #[test]
    fn shapes_follow_darknets_formulas() {
        let layers = [
            ("[conv]\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky", [8, 7, 13]),
            ("[max]\nsize=2\nstride=2", [8, 4, 7]),
            ("[maxpool]\nsize=2\nstride=1", [8, 4, 7]),
            ("[maxpool]\nsize=5\nstride=1", [8, 4, 7]),
            ("[conv]\nfilters=8\ngroups=8\nsize=5\npad=1", [8, 4, 7]),
            ("[conv]\nfilters=4\nsize=3\npad=1\ndilation=2", [4, 4, 7]),
            ("[dropout]", [4, 4, 7]),
            ("[shortcut]\nfrom=-4", [4, 4, 7]),
            ("[route]\nlayers = -1, 4", [12, 4, 7]),
            ("[route]\nlayers=-1\ngroups=2\ngroup_id=1", [6, 4, 7]),
            ("[upsample]\nstride=3", [6, 12, 21]),
            ("[reorg3d]\nstride=3", [54, 4, 7]),
            ("[avgpool]", [54, 1, 1]),
            ("[scale_channels]\nfrom=-2", [54, 4, 7]),
            ("[sam]\nfrom=-3", [54, 4, 7]),
            ("[batchnorm]", [54, 4, 7]),
            ("[conv]\nfilters=12\nsize=1\npad=1\nstride_x=2", [12, 4, 4]),
            ("[reorg]\nstride=2", [48, 2, 2]),
            ("[connected]\noutput=10", [10, 1, 1]),
            ("[softmax]", [10, 1, 1]),
        ];
        let text = format!("{NET}{}", layers.map(|l| l.0).join("\n"));
        assert_eq!(outputs(&text), layers.map(|l| l.1));
        let network = read(&text).unwrap();
        let floats: Vec<usize> = network.layers.iter().map(|l| l.layer.floats(l.input).unwrap()).collect();
        let expected = [
            (0, 8 * 27 + 8),
            (4, 8 * 25 + 8),
            (5, 4 * 8 * 9 + 4),
            (15, 4 * 54),
            (16, 12 * 54 + 12),
            (18, 10 * 48 * 4 + 10),
        ];
        let mut all = vec![0; layers.len()];
        expected.iter().for_each(|&(i, n)| all[i] = n);
        assert_eq!(floats, all);
        let sum: usize = all.iter().sum();
        assert_eq!(network.floats(), Some([sum, sum - 54]));
    }

    #[test]
    fn the_size_can_be_replaced() {
        let sections = parse(&format!("{NET}[maxpool]\nstride=2")).unwrap();
        let network = Network::read(&sections, "x", Some([64, 32])).unwrap();
        assert_eq!(network.layers[0].output, Shape { channels: 3, height: 16, width: 32 });
    }

    #[test]
    fn everything_unsupported_is_said_at_once() {
        let error = read(&format!(
            "{NET}[conv]\nactivation=step\n[lstm]\noutput=3\n[conv]\nantialiasing=3\n[reorg]\nflatten=1\n\
             [softmax]\ntree=x.tree\n[shortcut]\nfrom=0\nweights_type=per_pixel\n[yolo]\nanchors=1,2\n\
             nms_kind=cornersnms\n[region]\nmap=x.map"
        ))
        .unwrap_err();
        let ImportError::Unsupported(list) = &error else { panic!("{error}") };
        assert_eq!(list.len(), 8, "{error}");
        let parts = [
            "'step'",
            "[lstm]",
            "section 1 at line 7",
            "antialiasing=3",
            "flatten",
            "tree",
            "per_pixel",
            "cornersnms",
            "map=",
        ];
        for part in parts {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn contradictions_and_hostile_numbers_are_errors() {
        for (layers, part) in [
            ("[route]\nlayers=-1", "layers=-1"),
            ("[conv]\n[route]\nlayers=1", "layers=1"),
            ("[route]", "layers= is missing"),
            ("[conv]\nfilters=0", "filters must be at least 1"),
            ("[conv]\nsize=3\nstride=0", "stride"),
            ("[conv]\nfilters=4000000000\nsize=60000", "limit"),
            ("[conv]\nfilters=4000000000", "limit"),
            ("[conv]\nsize=99", "does not fit"),
            ("[conv]\nfilters=4\ngroups=2", "groups=2"),
            ("[maxpool]\nsize=2\npadding=9", "padding=9"),
            ("[upsample]\nstride=60000", "limit"),
            ("[upsample]\nstride=0", "stride=0"),
            ("[conv]\nfilters=8\n[max]\nstride=3\n[shortcut]\nfrom=0\nweights_type=per_layer", "sizes"),
            ("[crop]\ncrop_width=99\ncrop_height=2", "99x2"),
            ("[local]\nsize=5\npad=1", "pad=1"),
            ("[local]\nfilters=999999\nsize=3", "limit"),
            ("[max]\nmaxpool_depth=1\nout_channels=4", "out_channels=4"),
            ("[reorg3d]\nreverse=1\nstride=2", "stride=2"),
            ("[lrn]\nsize=9", "size=9"),
            ("[detection]\ncoords=4", "1014 values"),
            ("[region]\nanchors=1,2\nnum=2", "2 pairs"),
            ("[implicit]\nfilters=99999\natoms=99999", "limit"),
            ("[conv]\nfilters=18\n[yolo]\nclasses=1\nnum=3\nanchors=1,2,3,4\nmask=0,1,2", "mask=2"),
            ("[conv]\nfilters=17\n[yolo]\nclasses=1\nanchors=1,2,3,4,5,6\nmask=0,1,2", "17 channels"),
            ("[conv]\nfilters=6\n[yolo]\nclasses=1\nanchors=1,2\n[conv]", "reads the output"),
            ("[conv]\nfilters=8\n[max]\nstride=2\n[route]\nlayers=0\n[shortcut]\nfrom=-2", "equal sizes"),
            ("[conv]\nfilters=8\n[max]\nstride=2\n[route]\nlayers=0,1", "pixels"),
            ("[conv]\nfilters=2\n[conv]\nfilters=3\nshare_index=0", "another shape"),
            ("[reorg]\nstride=2", "stride=2"),
        ] {
            let error = message(&format!("{NET}{layers}"));
            assert!(error.contains(part), "{layers}: {error}");
        }
        assert!(message("[yolo]\nclasses=1").contains("[net]"));
        assert!(message("[net]\nwidth=3\nheight=3\nchannels=3").contains("no layer"));
        assert!(message("[net]\nwidth=0\nheight=3\nchannels=3\n[conv]").contains("width"));
        assert!(message("").contains("no section"));
    }
}
