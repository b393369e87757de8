//! The `.weights` file: a header, then little-endian f32 values in the order of the layers, without names.
//!
//! Header: `i32` major, minor, revision, then the number of pictures seen in training, `u64` where
//! major·10 + minor ≥ 2, else `u32`. Versions above 1000 mark files of the original code whose fully connected weights
//! are stored `[in][out]`; of those both header sizes exist.

use super::network::Network;
use crate::infer::import::ImportError;

/// Added to the variance before the root, as the maintained fork does.
const BATCH_NORM_EPSILON: f64 = 1e-5;

pub const TOO_MANY: &str = "the layers' weights do not fit in memory";

/// Walks over the floats of a weights file whose length fits its cfg.
#[derive(Debug)]
pub struct Weights<'a> {
    floats: std::slice::ChunksExact<'a, u8>,
    /// `[connected]` weights are stored `[in][out]`.
    pub transposed: bool,
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
        let [with_biases, without] = network.floats().ok_or_else(|| ImportError::malformed(TOO_MANY))?;
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

    /// The next `n` floats.
    ///
    /// # Errors
    /// Never after the check in [`Weights::open`], as long as both count alike.
    pub fn take(&mut self, n: usize) -> Result<Vec<f32>, ImportError> {
        let values: Vec<f32> =
            self.floats.by_ref().take(n).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if values.len() == n {
            return Ok(values);
        }
        Err(ImportError::malformed(format!("the weights file ends {} floats early", n - values.len())))
    }

    /// The next arrays of a batch-norm over `n` channels; its biases stand elsewhere.
    ///
    /// # Errors
    /// As [`Weights::take`].
    pub fn take_norm(&mut self, n: usize) -> Result<Norm, ImportError> {
        Ok(Norm { scales: self.take(n)?, mean: self.take(n)?, variance: self.take(n)? })
    }

    /// A `[batchnorm]` section over `channels` channels.
    ///
    /// # Errors
    /// When a variance is negative.
    pub fn batch_norm(&mut self, channels: usize, name: &str) -> Result<Affine, ImportError> {
        let biases = if self.batch_norm_biases { self.take(channels)? } else { vec![0.0; channels] };
        let norm = self.take_norm(channels)?;
        let (scale, shift) = norm.affine(&biases, name)?.iter().map(|&(a, b)| (a as f32, b as f32)).unzip();
        Ok(Affine { scale, shift })
    }
}

/// Arrays of a batch-norm, one number per channel each.
#[derive(Clone, Debug)]
pub struct Norm {
    scales: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Norm {
    /// Scale and shift per channel: scale·(x − mean)/√(variance + ε) + bias.
    fn affine(&self, biases: &[f32], name: &str) -> Result<Vec<(f64, f64)>, ImportError> {
        let mut out = Vec::with_capacity(biases.len());
        for (channel, &bias) in biases.iter().enumerate() {
            let spread = f64::from(self.variance[channel]) + BATCH_NORM_EPSILON;
            if spread.is_nan() || spread <= 0.0 {
                return Err(ImportError::malformed(format!(
                    "{name}: channel {channel} has the variance {}; the weights file does not belong to this cfg",
                    self.variance[channel]
                )));
            }
            let scale = f64::from(self.scales[channel]) / spread.sqrt();
            out.push((scale, f64::from(bias) - scale * f64::from(self.mean[channel])));
        }
        Ok(out)
    }
}

impl Folded {
    /// Weights `[out][...]` and biases with a batch-norm behind them folded in, in f64.
    ///
    /// # Errors
    /// When a variance is negative.
    pub fn new(weights: Vec<f32>, bias: Vec<f32>, norm: Option<&Norm>, name: &str) -> Result<Folded, ImportError> {
        let mut folded = Folded { weights, bias };
        if let Some(norm) = norm {
            let affine = norm.affine(&folded.bias, name)?;
            let per_filter = folded.weights.len() / folded.bias.len();
            for (filter, &(scale, shift)) in affine.iter().enumerate() {
                for w in &mut folded.weights[filter * per_filter..(filter + 1) * per_filter] {
                    *w = (f64::from(*w) * scale) as f32;
                }
                folded.bias[filter] = shift as f32;
            }
        }
        Ok(folded)
    }
}

/// `[k][n]` to `[n][k]`.
pub fn transposed(weights: &[f32], n: usize) -> Vec<f32> {
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
}
