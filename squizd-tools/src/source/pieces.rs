//! A stored tensor as pieces of source tensors: whole rows moved, never
//! re-encoded.

use super::store::TensorStore;
use squizd::{Error, Result, source::TensorInfo};
use std::{borrow::Cow, ops::Range};

/// How a piece walks through its source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Rows `src`, `src + stride`, `src + 2 stride`, ...
    Rows {
        /// Distance of consecutive rows, at least 1.
        stride: u64,
    },
    /// Columns 0, 1, ... of the block of `height` rows that starts at `src`;
    /// each becomes a row.
    Columns {
        /// Rows of the block, the width of the rows made of its columns.
        height: u64,
    },
}

/// Rows `dst..dst + len` of a stored tensor. A vector's rows are its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First stored row.
    pub dst: u64,
    /// Number of rows.
    pub len: u64,
    /// Index in the store.
    pub tensor: usize,
    /// First source row.
    pub src: u64,
    /// Order of the source rows.
    pub walk: Walk,
}

impl Piece {
    /// Stored row after the last.
    pub fn end(&self) -> u64 {
        self.dst + self.len
    }
}

/// Where the rows of a stored tensor come from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Ascending by `dst`, without gaps or overlaps.
    pub pieces: Vec<Piece>,
    /// The stored gain is `1 + w`.
    pub add_one: bool,
    /// All pieces have the stored tensor's type and keep its byte layout.
    pub native: bool,
}

/// A tensor in stored form and how to read it.
#[derive(Clone, Debug)]
pub struct MappedTensor {
    /// Name, role, type, dimensions.
    pub info: TensorInfo,
    /// Its source rows.
    pub recipe: Recipe,
}

impl MappedTensor {
    /// Reads the tensor from `store`.
    pub fn reader<'a>(&'a self, store: &'a dyn TensorStore) -> Reader<'a> {
        Reader { info: &self.info, recipe: &self.recipe, store }
    }
}

/// Follows a recipe.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The stored tensor.
    pub info: &'a TensorInfo,
    /// Its source rows.
    pub recipe: &'a Recipe,
    /// Where they lie.
    pub store: &'a dyn TensorStore,
}

/// A piece cut to a range of stored rows.
struct Cut {
    piece: Piece,
    /// Rows of the piece that are asked for.
    within: Range<u64>,
}

impl Cut {
    fn source_row(&self, i: u64) -> u64 {
        match self.piece.walk {
            Walk::Rows { stride } => self.piece.src + i * stride,
            Walk::Columns { .. } => self.piece.src,
        }
    }

    /// Source rows from the first to the last that the cut touches.
    fn span(&self) -> Range<u64> {
        match self.piece.walk {
            Walk::Rows { .. } => self.source_row(self.within.start)..self.source_row(self.within.end - 1) + 1,
            Walk::Columns { height } => self.piece.src..self.piece.src + height,
        }
    }
}

impl<'a> Reader<'a> {
    fn is_vector(&self) -> bool {
        self.info.dims.len() == 1
    }

    /// Checks `rows` against the tensor and yields the pieces' parts that make it up.
    fn cuts(&self, rows: &Range<u64>) -> Result<impl Iterator<Item = Cut> + use<'a>> {
        let count = self.info.rows();
        if rows.start > rows.end || rows.end > count {
            return Err(Error::invalid(format!(
                "tensor {}: rows {}..{} asked for, it has {count}",
                self.info.name, rows.start, rows.end
            )));
        }
        let wanted =
            if self.is_vector() && rows.start < rows.end { 0..self.info.cols() } else { rows.clone() };
        let first = self.recipe.pieces.partition_point(|p| p.end() <= wanted.start);
        Ok(self
            .recipe
            .pieces
            .iter()
            .skip(first)
            .take_while({
                let end = wanted.end;
                move |p| p.dst < end
            })
            .map(move |&piece| Cut {
                piece,
                within: wanted.start.max(piece.dst) - piece.dst..wanted.end.min(piece.end()) - piece.dst,
            })
            .filter(|c| !c.within.is_empty()))
    }

    /// Decodes `rows` into `out`.
    pub fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let cols = self.info.cols();
        let expected = rows.end.saturating_sub(rows.start).saturating_mul(cols);
        if out.len() as u64 != expected {
            return Err(Error::invalid(format!(
                "tensor {}: output holds {} values, rows {}..{} have {expected}",
                self.info.name,
                out.len(),
                rows.start,
                rows.end
            )));
        }
        let mut rest = &mut *out;
        for cut in self.cuts(&rows)? {
            let width = if self.is_vector() { 1 } else { cols };
            let values = (cut.within.end - cut.within.start) * width;
            let (part, tail) = rest.split_at_mut_checked(values as usize).ok_or_else(|| self.torn())?;
            rest = tail;
            if self.is_vector() {
                self.gather_elements(&cut, part)?;
            } else {
                self.read_cut(&cut, cols, part)?;
            }
        }
        if self.recipe.add_one {
            for v in out {
                *v += 1.0;
            }
        }
        Ok(())
    }

    fn read_cut(&self, cut: &Cut, cols: u64, out: &mut [f32]) -> Result<()> {
        match cut.piece.walk {
            Walk::Rows { stride: 1 } => self.store.read_f32(cut.piece.tensor, cut.span(), out),
            Walk::Rows { .. } => {
                for (i, row) in cut.within.clone().zip(out.chunks_exact_mut(cols as usize)) {
                    let at = cut.source_row(i);
                    self.store.read_f32(cut.piece.tensor, at..at + 1, row)?;
                }
                Ok(())
            }
            Walk::Columns { height } => {
                let width =
                    self.store.tensors().get(cut.piece.tensor).ok_or_else(|| self.torn())?.cols() as usize;
                let mut block = vec![0.0; height as usize * width];
                self.store.read_f32(cut.piece.tensor, cut.span(), &mut block)?;
                for (column, row) in cut.within.clone().zip(out.chunks_exact_mut(cols as usize)) {
                    let down = block.iter().skip(column as usize).step_by(width);
                    row.iter_mut().zip(down).for_each(|(to, from)| *to = *from);
                }
                Ok(())
            }
        }
    }

    /// Elements of a vector; the source vector is read whole (it is one row).
    fn gather_elements(&self, cut: &Cut, out: &mut [f32]) -> Result<()> {
        let len = self.store.tensors().get(cut.piece.tensor).ok_or_else(|| self.torn())?.cols();
        let mut all = vec![0.0; len as usize];
        self.store.read_f32(cut.piece.tensor, 0..1, &mut all)?;
        for (i, to) in cut.within.clone().zip(out) {
            *to = *all.get(cut.source_row(i) as usize).ok_or_else(|| self.torn())?;
        }
        Ok(())
    }

    /// The bytes of `rows` as the source has them, `None` where there are none
    /// for the stored form.
    pub fn read_native(&self, rows: Range<u64>) -> Result<Option<Cow<'a, [u8]>>> {
        if !self.recipe.native {
            return Ok(None);
        }
        let mut cuts = self.cuts(&rows)?.peekable();
        let Some(first) = cuts.next() else { return Ok(Some(Cow::Borrowed(&[]))) };
        let contiguous = first.piece.walk == Walk::Rows { stride: 1 };
        if contiguous && cuts.peek().is_none() {
            return Ok(Some(self.cut_bytes(&first)?));
        }
        let mut bytes = Vec::new();
        for cut in std::iter::once(first).chain(cuts) {
            if self.is_vector() || cut.piece.walk == (Walk::Rows { stride: 1 }) {
                bytes.extend_from_slice(&self.cut_bytes(&cut)?);
                continue;
            }
            for i in cut.within.clone() {
                let at = cut.source_row(i);
                bytes.extend_from_slice(&self.store.row_bytes(cut.piece.tensor, at..at + 1)?);
            }
        }
        Ok(Some(Cow::Owned(bytes)))
    }

    fn cut_bytes(&self, cut: &Cut) -> Result<Cow<'a, [u8]>> {
        if !self.is_vector() {
            return self.store.row_bytes(cut.piece.tensor, cut.span());
        }
        let elements = self.store.tensors().get(cut.piece.tensor).ok_or_else(|| self.torn())?.cols() as usize;
        let all = self.store.row_bytes(cut.piece.tensor, 0..1)?;
        if cut.piece.walk == (Walk::Rows { stride: 1 }) && cut.span() == (0..elements as u64) {
            return Ok(all);
        }
        let size = all.len().checked_div(elements).ok_or_else(|| self.torn())?;
        let mut bytes = Vec::with_capacity((cut.within.end - cut.within.start) as usize * size);
        for i in cut.within.clone() {
            let at = cut.source_row(i) as usize * size;
            bytes.extend_from_slice(all.get(at..at + size).ok_or_else(|| self.torn())?);
        }
        Ok(Cow::Owned(bytes))
    }

    /// Gives back the source pages of `rows`.
    pub fn release(&self, rows: &Range<u64>) {
        let Ok(cuts) = self.cuts(rows) else { return };
        for cut in cuts {
            let span = if self.is_vector() { 0..1 } else { cut.span() };
            self.store.release(cut.piece.tensor, span);
        }
    }

    fn torn(&self) -> Error {
        Error::invalid(format!(
            "tensor {}: source tensors {} do not add up to its rows; the source changed while it was read",
            self.info.name, self.info.source_name
        ))
    }
}
