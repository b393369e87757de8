//! Instruction sets, found at run time.

/// Instruction sets that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, for any processor.
    Portable,
    /// AVX2 and FMA (x86-64).
    Avx2,
    /// AVX-512 F, VL, DQ and BW (x86-64).
    Avx512,
    /// Advanced SIMD (aarch64).
    Neon,
}

impl Isa {
    /// The best instruction set of this processor; the environment variable `EYAS_ISA` (`portable`, `avx2`, `avx512`,
    /// `neon`) asks for another one. A name that is unknown or that this processor lacks is reported and ignored.
    pub fn detect() -> Isa {
        let best = Isa::available().into_iter().max().unwrap_or(Isa::Portable);
        let Ok(name) = std::env::var("EYAS_ISA") else {
            return best;
        };
        match Isa::from_name(&name) {
            Some(isa) if isa.is_available() => isa,
            Some(isa) => {
                log::warn!("EYAS_ISA={name}: this processor has no {isa:?}; using {best:?}");
                best
            }
            None => {
                log::warn!("EYAS_ISA={name} is none of portable, avx2, avx512, neon; using {best:?}");
                best
            }
        }
    }

    /// All instruction sets that kernels can use here, plainest first.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// True when this processor and this build have the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Lower-case name, as `EYAS_ISA` takes it and kernel labels show it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The instruction set of that name.
    pub fn from_name(name: &str) -> Option<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().find(|isa| isa.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_portable_is_always_there() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon] {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
        assert_eq!(Isa::available()[0], Isa::Portable);
        assert!(Isa::detect().is_available());
    }
}
