#![allow(dead_code, unused)]
#[path = "../benches/runtime.rs"]
mod b;
use b::*;
use squizd::codec::Precision;
use squizd::runtime::*;
use squizd_spec::CodecId;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    f[11].parse::<f64>().unwrap() / 100.0
}
fn main() {
    let which = std::env::args().nth(1).unwrap();
    let what = std::env::args().nth(2).unwrap();
    let n: usize = std::env::args().nth(3).unwrap().parse().unwrap();
    let id = CodecId::from_name(&which).unwrap();
    let w = synthetic(id).unwrap();
    let c = config().unwrap();
    let m = Model::new(&c, &&w).unwrap();
    let precision = if what == "decode32" { Precision::F32 } else { Precision::Q8 };
    let mut s =
        Session::new(&m, SessionOptions { precision, kv: KvType::F16, ..Default::default() }).unwrap();
    let prompt: Vec<u32> = (0..128u32).map(|i| i * 97).collect();
    s.forward(&prompt).unwrap();
    let (t, c) = (std::time::Instant::now(), cpu());
    for _ in 0..n {
        if what == "prefill" {
            s.truncate(0);
            s.forward(&prompt).unwrap();
        } else {
            s.truncate(128);
            s.forward(&[1]).unwrap();
        }
    }
    let (t, c) = (t.elapsed().as_secs_f64(), cpu() - c);
    println!(
        "{which} {what}: wall {:.2} ms cpu {:.2} ms per iteration",
        t / n as f64 * 1e3,
        c / n as f64 * 1e3
    );
}
