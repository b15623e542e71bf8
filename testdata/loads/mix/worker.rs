//! The Rust part of the mix load: generics, closures, trait objects and collections, optimised, so that most
//! calls are inlined and the names are long.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

trait Stage {
    fn apply(&self, words: Vec<String>) -> Vec<String>;
}

struct Sort;
struct Rotate<F: Fn(char) -> char>(F);

impl Stage for Sort {
    fn apply(&self, mut words: Vec<String>) -> Vec<String> {
        words.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        words
    }
}

impl<F: Fn(char) -> char> Stage for Rotate<F> {
    fn apply(&self, words: Vec<String>) -> Vec<String> {
        words.into_iter().map(|w| w.chars().map(&self.0).collect()).collect()
    }
}

fn rotate(c: char) -> char {
    match c {
        'a'..='y' => (c as u8 + 1) as char,
        'z' => 'a',
        _ => c,
    }
}

fn words(seed: u64) -> Vec<String> {
    let mut x = seed | 1;
    (0..200)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            format!("word{}{}", (b'a' + (x % 26) as u8) as char, x % 1000)
        })
        .collect()
}

fn count(words: &[String]) -> BTreeMap<usize, Vec<&str>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let mut by_count: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (word, n) in counts {
        by_count.entry(n).or_default().push(word);
    }
    by_count
}

fn main() {
    let seconds = match std::env::args().nth(1).map(|s| s.parse::<f64>()) {
        Some(Ok(s)) if s > 0.0 && s < 1e6 => s,
        _ => {
            eprintln!("usage: mix-rust SECONDS");
            std::process::exit(2);
        }
    };
    let stages: Vec<Box<dyn Stage>> = vec![Box::new(Rotate(rotate)), Box::new(Sort)];
    let start = Instant::now();
    let mut iterations = 0u64;
    let mut sum = 0;
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let words = stages.iter().fold(words(iterations), |w, stage| stage.apply(w));
        sum += count(&words).len();
        iterations += 1;
    }
    std::hint::black_box(sum);
    println!(
        "{{\"program\":\"mix-rust\",\"pid\":{},\"seconds\":{:.3},\"iterations\":{}}}",
        std::process::id(),
        start.elapsed().as_secs_f64(),
        iterations
    );
}
