//! The `.weights` file: a header, then little-endian f32 values in the order of the layers, without names.
//!
//! Header: `i32` major, minor, revision, then the number of pictures seen in training, `u64` where
//! major·10 + minor ≥ 2, else `u32`. Versions above 1000 mark files of the original code whose fully connected weights
//! are stored `[in][out]`; of those both header sizes exist.

use super::layer::{Convolution, Network, Placed, weights_of};
use crate::infer::import::ImportError;

/// Added to the variance before the root, as the maintained fork does.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Walks over the floats of a weights file whose length fits its cfg.
#[derive(Debug)]
pub struct Weights<'a> {
    floats: std::slice::ChunksExact<'a, u8>,
    /// `[connected]` weights are stored `[in][out]`.
    transposed: bool,
    /// `[batchnorm]` sections have biases.
    batch_norm_biases: bool,
}

/// Weights `[out][in/groups][kernel y][kernel x]` and one bias per output channel, with the batch-norm folded in.
#[derive(Clone, Debug)]
pub struct Folded {
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
}

/// A per-channel scale and shift.
#[derive(Clone, Debug)]
pub struct Affine {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl<'a> Weights<'a> {
    /// Reads the header and checks that the file has exactly the floats that `network` takes.
    ///
    /// # Errors
    /// A file that is too short or too long; says by how many floats.
    pub fn open(bytes: &'a [u8], network: &Network) -> Result<Weights<'a>, ImportError> {
        let word = |i: usize| bytes.get(4 * i..4 * i + 4)?.try_into().ok().map(i32::from_le_bytes);
        let (Some(major), Some(minor)) = (word(0), word(1)) else {
            return Err(ImportError::malformed(format!(
                "the weights file has {} bytes, too few for its header",
                bytes.len()
            )));
        };
        if major < 0 || minor < 0 {
            return Err(ImportError::malformed(format!("the weights file has version {major}.{minor}; is it one?")));
        }
        let [with_biases, without] =
            network.floats().ok_or_else(|| ImportError::malformed("the layers' weights do not fit in memory"))?;
        let transposed = major > 1000 || minor > 1000;
        let long = i64::from(major) * 10 + i64::from(minor) >= 2;
        let headers: &[usize] = match (transposed, long) {
            (true, _) => &[16, 20],
            (false, true) => &[20],
            (false, false) => &[16],
        };
        for &header in headers {
            for floats in [with_biases, without] {
                if floats.checked_mul(4).and_then(|n| n.checked_add(header)) == Some(bytes.len()) {
                    return Ok(Weights {
                        floats: bytes[header..].chunks_exact(4),
                        transposed,
                        batch_norm_biases: floats == with_biases,
                    });
                }
            }
        }
        Err(length_error(bytes.len(), headers[headers.len() - 1], with_biases, (major, minor)))
    }

    fn take(&mut self, n: usize) -> Result<Vec<f32>, ImportError> {
        let values: Vec<f32> =
            self.floats.by_ref().take(n).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if values.len() == n {
            return Ok(values);
        }
        // Cannot happen after the check in `open`, as long as both count alike.
        Err(ImportError::malformed(format!("the weights file ends {} floats early", n - values.len())))
    }

    /// The weights of a layer that owns some, folded in f64.
    pub fn convolution(&mut self, conv: &Convolution, layer: &Placed, name: &str) -> Result<Folded, ImportError> {
        let n = conv.filters;
        let count = weights_of(conv, layer.input).ok_or_else(|| ImportError::malformed("weights do not fit"))?;
        let biases = self.take(n)?;
        let mut weights = Vec::new();
        if conv.connected {
            weights = self.take(count)?;
        }
        let mut norm = None;
        if conv.batch_normalize {
            norm = Some([self.take(n)?, self.take(n)?, self.take(n)?]);
        }
        if !conv.connected {
            weights = self.take(count)?;
        }
        if conv.transposed || (conv.connected && self.transposed) {
            weights = transposed(&weights, n);
        }
        let mut folded = Folded { weights, bias: biases };
        if let Some([scales, mean, variance]) = norm {
            let affine = affine(&folded.bias, &scales, &mean, &variance, name)?;
            let per_filter = count / n;
            for (filter, &(scale, shift)) in affine.iter().enumerate() {
                for w in &mut folded.weights[filter * per_filter..(filter + 1) * per_filter] {
                    *w = (f64::from(*w) * scale) as f32;
                }
                folded.bias[filter] = shift as f32;
            }
        }
        Ok(folded)
    }

    /// A `[batchnorm]` section over `channels` channels.
    pub fn batch_norm(&mut self, channels: usize, name: &str) -> Result<Affine, ImportError> {
        let biases = if self.batch_norm_biases { self.take(channels)? } else { vec![0.0; channels] };
        let (scales, mean, variance) = (self.take(channels)?, self.take(channels)?, self.take(channels)?);
        let (scale, shift) =
            affine(&biases, &scales, &mean, &variance, name)?.iter().map(|&(a, b)| (a as f32, b as f32)).unzip();
        Ok(Affine { scale, shift })
    }
}

/// Scale and shift per channel: scale·(x − mean)/√(variance + ε) + bias.
fn affine(
    biases: &[f32],
    scales: &[f32],
    mean: &[f32],
    variance: &[f32],
    name: &str,
) -> Result<Vec<(f64, f64)>, ImportError> {
    let mut out = Vec::with_capacity(biases.len());
    for channel in 0..biases.len() {
        let spread = f64::from(variance[channel]) + BATCH_NORM_EPSILON;
        if spread.is_nan() || spread <= 0.0 {
            return Err(ImportError::malformed(format!(
                "{name}: channel {channel} has the variance {}; the weights file does not belong to this cfg",
                variance[channel]
            )));
        }
        let scale = f64::from(scales[channel]) / spread.sqrt();
        out.push((scale, f64::from(biases[channel]) - scale * f64::from(mean[channel])));
    }
    Ok(out)
}

/// `[k][n]` to `[n][k]`.
fn transposed(weights: &[f32], n: usize) -> Vec<f32> {
    let k = weights.len() / n;
    (0..n).flat_map(|row| (0..k).map(move |column| weights[column * n + row])).collect()
}

fn length_error(bytes: usize, header: usize, floats: usize, version: (i32, i32)) -> ImportError {
    let held = bytes.saturating_sub(header);
    let (major, minor) = version;
    let what = if held / 4 < floats {
        format!("{} are missing", floats - held / 4)
    } else if held / 4 > floats {
        format!("{} are left over", held / 4 - floats)
    } else {
        format!("{} bytes of a further one are left over", held % 4)
    };
    ImportError::malformed(format!(
        "the cfg takes {floats} floats, the weights file (version {major}.{minor}) holds {}: {what}; the two files do \
         not belong together, or one was cut",
        held / 4
    ))
}

#[cfg(test)]
mod tests {
    use super::super::cfg::parse;
    use super::*;

    const CFG: &str = "[net]\nwidth=2\nheight=2\nchannels=2\n[conv]\nfilters=2\nbatch_normalize=1\nactivation=linear\n\
                       [batchnorm]\n[connected]\noutput=3\nbatch_normalize=1\nactivation=linear\n";

    fn network() -> Network {
        Network::read(&parse(CFG).unwrap(), "x", None).unwrap()
    }

    fn file(version: [i32; 2], seen_bytes: usize, floats: &[f32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [version[0], version[1], 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend(vec![0; seen_bytes]);
        bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    }

    #[test]
    fn all_header_versions_and_both_batchnorm_forms() {
        let network = network();
        let [with, without] = network.floats().unwrap();
        assert_eq!((with, without), (8 + 4 + 8 + 3 * 8 + 12, 8 + 4 + 6 + 3 * 8 + 12));
        for (version, seen_bytes, n) in [
            ([0, 1], 4, with),
            ([0, 2], 8, with),
            ([0, 2], 8, without),
            ([1, 0], 8, with),
            ([0, 1001], 4, with),
            ([1001, 0], 8, without),
        ] {
            let bytes = file(version, seen_bytes, &vec![1.0; n]);
            let weights = Weights::open(&bytes, &network).unwrap();
            assert_eq!(weights.batch_norm_biases, n == with);
            assert_eq!(weights.transposed, version[0] + version[1] > 1000);
        }
    }

    #[test]
    fn wrong_lengths_say_how_many_floats() {
        let network = network();
        let n = network.floats().unwrap()[0];
        let message = |bytes: &[u8]| Weights::open(bytes, &network).unwrap_err().to_string();
        assert!(message(&file([0, 2], 8, &vec![1.0; n - 7])).contains("7 are missing"));
        assert!(message(&file([0, 2], 8, &vec![1.0; n + 5])).contains("5 are left over"));
        assert!(message(&file([0, 1], 4, &vec![1.0; n + 1])).contains("1 are left over"));
        let mut bytes = file([0, 2], 8, &vec![1.0; n]);
        bytes.extend([0, 0]);
        assert!(message(&bytes).contains("2 bytes"));
        assert!(message(&[1, 2, 3]).contains("too few"));
        assert!(message(&[255; 64]).contains("version -1"));
        assert!(message(b"<!doctype html><html></html>").contains("missing"));
    }

    #[test]
    fn batch_norm_is_folded_in_the_order_of_the_file() {
        let network = network();
        let conv = [
            10.0, 20.0, // biases
            2.0, 4.0, // scales
            1.0, -1.0, // mean
            0.25, 4.0, // variance
            1.0, 2.0, 3.0, 4.0, // weights
        ];
        let norm = [0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
        let mut connected = vec![1.0, 2.0, 3.0]; // biases
        connected.extend((0..24).map(|i| i as f32)); // weights
        connected.extend([1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let floats: Vec<f32> = conv.iter().chain(&norm).chain(&connected).copied().collect();
        for (minor, seen_bytes) in [(2, 8), (1001, 4)] {
            let bytes = file([0, minor], seen_bytes, &floats);
            let mut weights = Weights::open(&bytes, &network).unwrap();
            let [first, _, last] = network.layers.as_slice() else { panic!() };
            let (super::super::layer::Layer::Convolution(a), super::super::layer::Layer::Convolution(b)) =
                (&first.layer, &last.layer)
            else {
                panic!()
            };
            let folded = weights.convolution(a, first, "a").unwrap();
            let s = [2.0 / 0.25001f64.sqrt(), 4.0 / 4.00001f64.sqrt()];
            let expected = [s[0], 2.0 * s[0], 3.0 * s[1], 4.0 * s[1]];
            for (w, e) in folded.weights.iter().zip(expected) {
                assert!((f64::from(*w) - e).abs() < 1e-6 * e);
            }
            assert!((f64::from(folded.bias[0]) - (10.0 - s[0])).abs() < 1e-5);
            assert!((f64::from(folded.bias[1]) - (20.0 + s[1])).abs() < 1e-5);
            let affine = weights.batch_norm(2, "n").unwrap();
            assert_eq!(affine.shift, [0.5, 0.5]);
            let folded = weights.convolution(b, last, "b").unwrap();
            let unit = f64::from(1.0 / 1.00001f32.sqrt());
            // Row 1 of [3][8], or column 1 of [8][3].
            let second = if minor == 2 { 9.0 } else { 4.0 };
            assert!((f64::from(folded.weights[9]) - second * unit).abs() < 1e-4);
            assert!((f64::from(folded.weights[16]) - if minor == 2 { 32.0 } else { 4.0 } * unit).abs() < 1e-4);
            assert_eq!(folded.bias, [1.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn a_negative_variance_is_refused() {
        let network = network();
        let bytes = file([0, 2], 8, &vec![-1.0; network.floats().unwrap()[0]]);
        let mut weights = Weights::open(&bytes, &network).unwrap();
        let super::super::layer::Layer::Convolution(conv) = &network.layers[0].layer else { panic!() };
        let error = weights.convolution(conv, &network.layers[0], "section 0").unwrap_err();
        assert!(error.to_string().contains("section 0: channel 0"), "{error}");
    }
}
