//! What observers see, for every family.

use super::super::family_tests::{Case, FAMILIES};
use super::super::testing::max_difference;
use super::super::{Session, SessionOptions};
use super::*;
use crate::eval;
use std::collections::BTreeMap;

/// Rows of one call: expert, values, width.
type Seen = (u16, Vec<f32>, usize);

/// Keeps all inputs, by layer and role.
#[derive(Default)]
struct Recorder {
    layer: Vec<(Role, Seen)>,
    done: BTreeMap<(Option<u16>, u16), Vec<Seen>>,
    windows: usize,
}

/// Stops after the first layer.
struct Stop;

impl Observer for Stop {
    fn input(&mut self, _: Role, _: u16, _: &[f32], _: usize) {}

    fn layer_done(&mut self, _: Option<u16>) -> Result<()> {
        Err(crate::Error::Cancelled)
    }
}

impl Observer for Recorder {
    fn input(&mut self, role: Role, expert: u16, x: &[f32], width: usize) {
        assert!(!x.is_empty() && x.len().is_multiple_of(width));
        self.layer.push((role, (expert, x.to_vec(), width)));
    }

    fn window_done(&mut self) -> Result<()> {
        self.windows += 1;
        Ok(())
    }

    fn layer_done(&mut self, layer: Option<u16>) -> Result<()> {
        for (role, seen) in self.layer.drain(..) {
            self.done.entry((layer, role.0)).or_default().push(seen);
        }
        Ok(())
    }
}

#[test]
fn layerwise_runs_are_the_forward_pass_of_every_family() {
    for name in FAMILIES {
        let (case, weights) = Case::open(name);
        let model = Model::new(&case.model, &&weights).unwrap();
        let windows = [&case.ids[..], &case.ids[2..7]];
        let mut recorder = Recorder::default();
        let options = SessionOptions { context: case.ids.len(), ..Default::default() };
        Session::new(&model, options).unwrap().observe(&windows, &mut recorder).unwrap();

        // The head's input times the head is the logits.
        let head = recorder.done.get(&(None, Role::OUTPUT.0)).unwrap();
        let (hidden, vocab) = (model.hidden(), model.vocab_size());
        let mut matrix = vec![0.0; vocab * hidden];
        model.head().decode(0..vocab, &mut matrix).unwrap();
        for (window, (_, x, _)) in windows.iter().zip(head) {
            let logits = eval::logits(&model, window).unwrap();
            let got = x.chunks(hidden).flat_map(|x| matrix.chunks(hidden).map(move |w| dot(w, x)));
            let got: Vec<f32> = match model.config.logit_softcap {
                Some(cap) => got.map(|v| (cap * (f64::from(v) / cap).tanh()) as f32).collect(),
                None => got.collect(),
            };
            assert!(max_difference(&got, &logits) < 1e-4, "{name}");
        }

        // Every announced input is seen for every token, and no other.
        let tokens: usize = windows.iter().map(|w| w.len()).sum();
        let inputs = model.inputs();
        assert_eq!(recorder.done.len(), inputs.len(), "{name}");
        assert_eq!(recorder.windows, 2 * (model.layers.len() + 1));
        for input in inputs {
            let seen = recorder.done.get(&(input.layer, input.role.0)).unwrap();
            assert!(
                seen.iter()
                    .all(|(expert, _, width)| { *width == input.width && *expert < input.experts.max(1) })
            );
            let rows: usize = seen.iter().map(|(_, x, width)| x.len() / width).sum();
            let each = match &case.model.moe {
                Some(moe) if input.experts > 0 => usize::from(moe.experts_per_token),
                _ => 1,
            };
            assert_eq!(rows, tokens * each, "{name}: {input:?}");
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

#[test]
fn bad_windows_are_refused_and_errors_stop() {
    let (case, weights) = Case::open("llama");
    let model = Model::new(&case.model, &&weights).unwrap();
    let mut session = Session::new(&model, SessionOptions { context: 4, ..Default::default() }).unwrap();
    for (window, part) in [(&[][..], "no tokens"), (&[99], "token id 99"), (&[1; 5], "do not fit")] {
        let text = session.observe(&[window], &mut Recorder::default()).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(session.observe(&[&[1, 2]], &mut Stop), Err(crate::Error::Cancelled)));
}
