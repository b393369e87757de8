//! The buffers of a plan on the CPU.
//!
//! A step may read one part of a buffer and write another (views of one Concat), from several threads at once. Safe
//! code sees a buffer as a slice of cells; the fast kernels take pointers and rely on the plan's rule that a step never
//! writes an element that it reads, and on their own that no two threads write the same element.

use std::cell::{Cell, UnsafeCell};

use crate::infer::plan::view::{BufferId, View};

/// Elements of a cache line. Vector accesses that straddle two lines are slow, so buffers best start on one.
pub const ALIGNMENT: usize = 16;

/// The buffers of a plan, in words of f32; those of bytes have four elements to a word. Several plan buffers may share an allocation when their lifetimes do not overlap.
pub struct Memory {
    arena: Box<[UnsafeCell<f32>]>,
    /// Offset and length of each buffer in the arena.
    spans: Vec<(usize, usize)>,
}

// SAFETY: shared access from threads happens only through `pointer`, whose users promise not to race.
unsafe impl Sync for Memory {}

impl Memory {
    /// One zeroed arena of `len_words` with buffers at the given offsets and lengths. It starts on a cache line;
    /// buffers at multiples of [`ALIGNMENT`] elements do so too.
    ///
    /// # Panics
    /// When a buffer reaches outside the arena.
    pub fn new(len_words: usize, spans: Vec<(usize, usize)>) -> Memory {
        assert!(
            spans.iter().all(|&(offset, len)| offset.checked_add(len).is_some_and(|end| end <= len_words)),
            "a buffer reaches outside the arena"
        );
        // Zeros as the system gives them, which are no memory before they are used.
        let zeros = Box::into_raw(vec![0f32; len_words + ALIGNMENT].into_boxed_slice());
        // SAFETY: UnsafeCell<f32> has the layout of f32, and nobody else has the box.
        let arena = unsafe { Box::from_raw(zeros as *mut [UnsafeCell<f32>]) };
        let start = arena.as_ptr().align_offset(ALIGNMENT * size_of::<f32>()).min(ALIGNMENT);
        let spans = spans.into_iter().map(|(offset, len)| (start + offset, len)).collect();
        Memory { arena, spans }
    }

    /// A buffer as cells: for twins and for filling inputs. `&mut` because cells must not be seen by two threads.
    pub fn cells(&mut self, id: BufferId) -> &[Cell<f32>] {
        Self::cells_of(&mut self.arena, self.spans[id.0])
    }

    /// A buffer as a slice: for stages that fill inputs from several threads.
    pub fn slice_mut(&mut self, id: BufferId) -> &mut [f32] {
        let (offset, len) = self.spans[id.0];
        let part: *mut [UnsafeCell<f32>] = &mut self.arena[offset..offset + len];
        // SAFETY: UnsafeCell<f32> has the layout of f32, and the exclusive borrow of the memory lasts as long as the
        // slice.
        unsafe { &mut *(part as *mut [f32]) }
    }

    /// Several buffers as cells at once; the same buffer may be asked for twice.
    pub fn cells_many(&mut self, ids: &[BufferId]) -> Vec<&[Cell<f32>]> {
        let arena: &[Cell<f32>] = Self::all(&mut self.arena);
        ids.iter()
            .map(|id| {
                let (offset, len) = self.spans[id.0];
                &arena[offset..offset + len]
            })
            .collect()
    }

    /// Several buffers as plain slices at once.
    pub fn slices(&mut self, ids: &[BufferId]) -> Vec<&[f32]> {
        // SAFETY: UnsafeCell<f32> has the layout of f32, and while the exclusive borrow lasts nobody writes.
        let arena: &[f32] = unsafe { &*(std::ptr::from_mut::<[UnsafeCell<f32>]>(&mut self.arena) as *const [f32]) };
        ids.iter()
            .map(|id| {
                let (offset, len) = self.spans[id.0];
                &arena[offset..offset + len]
            })
            .collect()
    }

    pub fn len_bytes(&self) -> usize {
        self.arena.len() * size_of::<f32>()
    }

    fn all(arena: &mut [UnsafeCell<f32>]) -> &[Cell<f32>] {
        // SAFETY: Cell<f32> has the layout of UnsafeCell<f32> (it is a transparent wrapper of it), and the exclusive
        // borrow keeps other threads away for as long as the cells are visible.
        unsafe { &*(std::ptr::from_mut::<[UnsafeCell<f32>]>(arena) as *const [Cell<f32>]) }
    }

    fn cells_of(arena: &mut [UnsafeCell<f32>], (offset, len): (usize, usize)) -> &[Cell<f32>] {
        &Self::all(arena)[offset..offset + len]
    }

    /// Pointer to the first element of a view of bytes; all of the view is inside the buffer.
    ///
    /// # Panics
    /// When the view reaches outside its buffer.
    pub fn byte_pointer(&self, view: &View) -> *mut u8 {
        let (offset, len) = self.spans[view.buffer.0];
        assert!(view.end() <= len * size_of::<f32>(), "view outside its buffer: {view:?}");
        self.arena[offset..offset + len].as_ptr().cast::<u8>().wrapping_add(view.offset).cast_mut()
    }

    /// Pointer to the first element of a view; all of the view is inside the buffer.
    ///
    /// # Panics
    /// When the view reaches outside its buffer.
    pub fn pointer(&self, view: &View) -> *mut f32 {
        let (offset, len) = self.spans[view.buffer.0];
        assert!(view.end() <= len, "view outside its buffer: {view:?}");
        self.arena[offset..offset + len].as_ptr().wrapping_add(view.offset).cast_mut().cast()
    }
}

/// The bytes of a buffer that holds bytes.
pub fn as_bytes(cells: &[Cell<f32>]) -> &[Cell<u8>] {
    // SAFETY: an f32 is four bytes of any value, without padding, at a looser alignment; and cells may overlap cells.
    unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<Cell<u8>>(), size_of_val(cells)) }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} elements, {} buffers)", self.arena.len(), self.spans.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_cells_are_the_same_elements() {
        let mut memory = Memory::new(7, vec![(0, 3), (3, 4)]);
        memory.slice_mut(BufferId(1)).copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(memory.cells(BufferId(1)).iter().map(Cell::get).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(memory.slice_mut(BufferId(0)), [0.0; 3]);
    }

    #[test]
    fn bytes_are_four_to_a_word() {
        let mut memory = Memory::new(3, vec![(0, 1), (1, 2)]);
        let bytes = as_bytes(memory.cells(BufferId(1)));
        assert_eq!(bytes.len(), 8);
        bytes[7].set(9);
        let view = View::row_major(BufferId(1), &[8]).sliced(0, 7, 1, 1);
        // SAFETY: the one element of the view.
        assert_eq!(unsafe { *memory.byte_pointer(&view) }, 9);
        assert_eq!(memory.slice_mut(BufferId(0)), [0.0]);
    }
}
