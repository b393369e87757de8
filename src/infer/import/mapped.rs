//! Model files, mapped rather than read.

use super::ImportError;
use bytes::Bytes;
use memmap2::Mmap;
use std::path::Path;
use std::sync::Arc;

/// A file in memory; what nobody looks at takes none.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Arc<Mmap>>,
}

/// Keeps the map for as long as bytes of it are there.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// [`ImportError::Io`] when it cannot be read.
    pub fn open(path: &Path) -> Result<MappedFile, ImportError> {
        let failed = |source| ImportError::Io { path: path.to_path_buf(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            return Ok(MappedFile { map: None });
        }
        // SAFETY: the map is private to this process and only read. Should another process truncate the file meanwhile,
        // the read faults; a model that is being rewritten cannot be loaded in any way.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(MappedFile { map: Some(Arc::new(map)) })
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> Bytes {
        self.map.as_ref().map_or_else(Bytes::new, |map| Bytes::from_owner(Owner(Arc::clone(map))))
    }

    /// Gives back the memory of a part of [`MappedFile::bytes`] that was used for the last time; it can still be read, from
    /// the file. Of anything else this does nothing.
    pub fn let_go(&self, part: &[u8]) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // Whole pages of any system alone; the others stay.
            const PAGE_BYTES: usize = 64 << 10;
            let inside = map.as_ptr_range();
            let range = part.as_ptr_range();
            if part.is_empty() || range.start < inside.start || range.end > inside.end {
                return;
            }
            let start = (range.start as usize - inside.start as usize).next_multiple_of(PAGE_BYTES);
            let end = (range.end as usize - inside.start as usize) / PAGE_BYTES * PAGE_BYTES;
            if start < end {
                // SAFETY: a private map that nothing writes to: its pages come back from the file with what they held. A
                // refusal costs memory alone.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_can_still_be_read() {
        let path = std::env::temp_dir().join(format!("eyas-mapped-{}", std::process::id()));
        let wanted: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &wanted).expect("a file");
        let file = MappedFile::open(&path).expect("maps");
        let bytes = file.bytes();
        assert_eq!(bytes, wanted);
        file.let_go(&bytes[5..390_000]);
        file.let_go(&bytes[..0]);
        file.let_go(&wanted);
        assert_eq!(bytes, wanted);
        std::fs::write(&path, []).expect("an empty file");
        assert!(MappedFile::open(&path).expect("an empty file").bytes().is_empty());
        std::fs::remove_file(&path).expect("removed");
        let error = MappedFile::open(&path).expect_err("not there").to_string();
        assert!(error.contains("eyas-mapped"), "{error}");
    }
}
