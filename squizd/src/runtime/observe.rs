//! Running a model to see the inputs of its linear layers.
//!
//! Layer by layer: all windows pass one layer before any passes the next, so
//! that what an observer gathers about a layer is complete, and can be written
//! and forgotten, before the next begins. Between layers the residual stream of
//! every window is kept.

use super::ffn::resize;
use super::forward::{in_pool, norm_rows};
use super::model::{Ffn, Model};
use super::session::Session;
use crate::Result;
use squizd_spec::Role;

/// Sees the inputs of linear layers.
pub trait Observer: Send {
    /// `x` holds rows of `width` values, the inputs of the layers with the
    /// input role `role` (see [`crate::calibration::input_role`]), of expert
    /// `expert` where they are a stack.
    fn input(&mut self, role: Role, expert: u16, x: &[f32], width: usize);

    /// A window has passed a layer. An error stops the run.
    fn window_done(&mut self) -> Result<()> {
        Ok(())
    }

    /// All windows have passed `layer`; `None` is the output head, the last.
    fn layer_done(&mut self, layer: Option<u16>) -> Result<()>;
}

/// Looks away.
pub(super) struct Nobody;

impl Observer for Nobody {
    #[inline]
    fn input(&mut self, _: Role, _: u16, _: &[f32], _: usize) {}

    fn layer_done(&mut self, _: Option<u16>) -> Result<()> {
        Ok(())
    }
}

/// The input of one or several linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputShape {
    /// Input role.
    pub role: Role,
    /// Layer; `None` for the output head.
    pub layer: Option<u16>,
    /// Experts that each have their own inputs, 0 where all tokens go one way.
    pub experts: u16,
    /// Channels.
    pub width: usize,
}

impl Model<'_> {
    /// Every input that an [`Observer`] is shown, in the order of
    /// [`Observer::layer_done`].
    pub fn inputs(&self) -> Vec<InputShape> {
        let mut inputs = Vec::new();
        for (layer, blocks) in (0u16..).zip(&self.layers) {
            let mut push = |role, experts, width| {
                inputs.push(InputShape { role, layer: Some(layer), experts, width });
            };
            push(Role::ATTN_Q, 0, blocks.q.cols());
            push(Role::ATTN_OUTPUT, 0, blocks.attn_output.cols());
            match &blocks.ffn {
                Ffn::Dense { gate, down, .. } => {
                    push(Role::FFN_GATE, 0, gate.cols());
                    push(Role::FFN_DOWN, 0, down.cols());
                }
                Ffn::Experts(stack) => {
                    let count = stack.router.rows() as u16;
                    push(Role::MOE_GATE, count, stack.gate.cols());
                    push(Role::MOE_DOWN, count, stack.down.cols());
                }
            }
        }
        inputs.push(InputShape { role: Role::OUTPUT, layer: None, experts: 0, width: self.hidden() });
        inputs
    }
}

impl Session<'_, '_> {
    /// Runs independent `windows`, each from position 0, and shows `observer`
    /// every input. The session's own sequence is forgotten.
    ///
    /// # Errors
    /// If a window is empty, longer than the context or holds an id outside the
    /// vocabulary, a payload cannot be decoded, or the observer stops.
    pub fn observe(&mut self, windows: &[&[u32]], observer: &mut dyn Observer) -> Result<()> {
        self.truncate(0);
        for window in windows {
            self.check(window)?;
        }
        let model = self.model;
        let mut streams = Vec::with_capacity(windows.len());
        for window in windows {
            self.embed(window)?;
            streams.push(std::mem::take(&mut self.buffers.x));
        }
        for (index, layer) in model.layers.iter().enumerate() {
            for (window, stream) in windows.iter().zip(&mut streams) {
                self.cache.truncate(0);
                self.rotate_for(window.len());
                for (angles, frequencies) in self.buffers.angles.iter_mut().zip(&self.frequencies) {
                    angles.fill(frequencies, 0, window.len());
                }
                std::mem::swap(&mut self.buffers.x, stream);
                in_pool(|| self.layer(index, layer, window.len(), &mut *observer))?;
                std::mem::swap(&mut self.buffers.x, stream);
                observer.window_done()?;
            }
            observer.layer_done(Some(index as u16))?;
        }
        self.cache.truncate(0);
        let mut normed = Vec::new();
        for stream in &streams {
            resize(&mut normed, stream.len());
            norm_rows(stream, &model.output_norm, model.norm_eps, &mut normed);
            in_pool(|| observer.input(Role::OUTPUT, 0, &normed, model.hidden()));
            observer.window_done()?;
        }
        observer.layer_done(None)
    }
}

#[cfg(test)]
mod tests;
