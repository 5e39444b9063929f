//! A short run of the fuzz targets: each property on its corpus and on that changed at random. `make fuzz` looks deeper.
//!
//! A failing input is printed as hex; `echo HEX | xxd -r -p > tests/fuzz/corpus/TARGET/NAME` keeps it.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "fuzz/properties.rs"]
mod properties;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const CHANGED: usize = 10_000;

#[test]
fn every_property_on_its_corpus_and_near_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, property) in properties::ALL {
        let folder = std::fs::read_dir(corpus.join(name)).expect("a corpus");
        let mut seeds: Vec<_> = folder
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name}: an empty corpus");
        let mut random = fastrand::Rng::with_seed(7);
        for seed in &seeds {
            check(name, property, seed);
        }
        for _ in 0..CHANGED {
            let mut data = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(1..8) {
                change(&mut data, &seeds, &mut random);
            }
            check(name, property, &data);
        }
    }
}

fn check(name: &str, property: fn(&[u8]), data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| property(data))).is_err() {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} does not hold for {hex}");
    }
}

/// One small change: a byte, a piece cut out, doubled, or taken from another seed.
fn change(data: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=data.len());
    let end = random.usize(at..=data.len().min(at + 16));
    match random.u8(..5) {
        0 if at < data.len() => data[at] = random.u8(..),
        1 if at < data.len() => data[at] ^= 1 << random.u8(..8),
        2 => drop(data.drain(at..end)),
        3 => {
            let piece = data[at..end].to_vec();
            data.splice(at..at, piece);
        }
        _ => {
            let other = &seeds[random.usize(..seeds.len())];
            let from = random.usize(..=other.len());
            let to = random.usize(from..=other.len().min(from + 32));
            data.splice(at..at, other[from..to].iter().copied());
        }
    }
}
