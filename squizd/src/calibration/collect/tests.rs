//! Moments of the tiny model against their definition.

use super::*;
use crate::runtime::testing::Trained;

#[derive(Default)]
struct All(Vec<(InputShape, Vec<Collected>)>, usize);

impl CollectedSink for All {
    fn input(&mut self, shape: &InputShape, collected: &[Collected]) -> Result<()> {
        self.0.push((*shape, collected.to_vec()));
        Ok(())
    }

    fn window_done(&mut self) -> Result<()> {
        self.1 += 1;
        Ok(())
    }
}

fn collected(model: &Model<'_>, windows: &[&[u32]], detail: Detail) -> All {
    let mut all = All::default();
    collect(model, windows, detail, &mut all).unwrap();
    all
}

#[test]
fn moments_are_means_of_products_over_all_windows() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids: Vec<u32> = (0..400u32).map(|i| (i * 37 + 11) % 1024).collect();
    let windows: Vec<&[u32]> = ids.chunks(150).collect();
    let full = collected(&model, &windows, Detail::Hessian);
    let diagonal = collected(&model, &windows, Detail::Importance);
    assert_eq!(full.0.iter().map(|i| i.0).collect::<Vec<_>>(), model.inputs());
    assert_eq!(full.1, 3 * (usize::from(trained.config.num_layers) + 1));

    for ((shape, h), (_, d)) in full.0.iter().zip(&diagonal.0) {
        let ([h], [d]) = (&h[..], &d[..]) else { panic!("{shape:?}") };
        assert_eq!((h.count, d.count), (400, 400));
        assert_eq!(h.importance.len(), shape.width);
        assert_eq!(h.triangle.len(), shape.width * (shape.width + 1) / 2);
        assert!(d.triangle.is_empty());
        let mut at = 0;
        for (i, (a, b)) in h.importance.iter().zip(&d.importance).enumerate() {
            assert!((a - b).abs() <= 1e-5 * b.abs() + 1e-12, "{shape:?} {i}: {a} {b}");
            assert_eq!(a.to_bits(), h.triangle[at].to_bits());
            at += shape.width - i;
        }
    }

    // The first input is the normalised embedding, whatever the window.
    let (_, first) = &full.0[0];
    let hidden = model.config().hidden_size as usize;
    let trained_values = |role, layer| {
        let stored =
            crate::runtime::Weights::get(&&trained.weights, role, layer, squizd_spec::Part::WEIGHT).unwrap();
        let matrix = squizd_spec::Matrix::of(&stored.dims).unwrap();
        let mut out = vec![0.0; matrix.elements() as usize];
        let tensor = crate::codec::Encoded { name: "", matrix, params: stored.params, data: stored.data };
        crate::codec::codec(stored.codec).unwrap().decode(&tensor, 0..matrix.rows, &mut out).unwrap();
        out
    };
    let embedding = trained_values(Role::TOKEN_EMBD, None);
    let gain = trained_values(Role::ATTN_NORM, Some(0));
    let mut exact = vec![0.0; hidden];
    for id in &ids {
        let x = &embedding[*id as usize * hidden..][..hidden];
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / hidden as f64;
        for ((sum, x), g) in exact.iter_mut().zip(x).zip(&gain) {
            *sum += (f64::from(*x) * f64::from(*g)).powi(2) / (mean + model.config().norm_eps) / 400.0;
        }
    }
    for (a, b) in first[0].importance.iter().zip(exact) {
        assert!((f64::from(*a) - b).abs() < 1e-5 * b, "{a} {b}");
    }
}

#[test]
fn threads_change_nothing() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids: Vec<u32> = (0..90u32).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| collected(&model, &[&ids], Detail::Hessian).0)
    };
    assert_eq!(run(1), run(3));
    assert!(memory(model.config(), Detail::Hessian, 90) > memory(model.config(), Detail::Importance, 90));
}
