// The same for Rust: iterators and closures that are inlined, generics, a trait object.
use std::collections::BTreeMap;

trait Shape {
    fn area(&self) -> f64;
}
struct Square(f64);
impl Shape for Square {
    fn area(&self) -> f64 {
        self.0 * self.0
    }
}

#[inline(never)]
fn words(text: &str) -> BTreeMap<String, usize> {
    let mut m = BTreeMap::new();
    for w in text.split_whitespace().filter(|w| w.len() > 1) {
        *m.entry(w.to_lowercase()).or_insert(0) += 1;
    }
    m
}

#[inline(never)]
fn sum(v: &[u64]) -> u64 {
    v.iter().map(|x| x.wrapping_mul(7)).filter(|x| x % 3 != 0).fold(0, u64::wrapping_add)
}

fn main() {
    let text = std::env::args().collect::<Vec<_>>().join(" and ");
    let m = words(&text);
    let v: Vec<u64> = m.values().map(|&n| n as u64).collect();
    let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Square(v.len() as f64))];
    println!("{} {}", sum(&v), shapes.iter().map(|s| s.area()).sum::<f64>());
}
