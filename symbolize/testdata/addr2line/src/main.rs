// Prints the inlined calls at addresses read from standard input, one hexadecimal number a line, by the addr2line
// crate: what Pilotlight's cost is measured beside.
use std::io::{self, BufRead, BufWriter, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("give a file")?;
    let map = unsafe { memmap2::Mmap::map(&std::fs::File::open(path)?)? };
    let file = object::File::parse(&*map)?;
    let context = addr2line::Context::new(&file)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let addr = u64::from_str_radix(line.trim_start_matches("0x"), 16)?;
        writeln!(out, "{}", line)?;
        let mut frames = context.find_frames(addr)?;
        while let Some(frame) = frames.next()? {
            let name = match &frame.function {
                Some(f) => f.raw_name()?.into_owned(),
                None => "?".into(),
            };
            let (file, line) = match &frame.location {
                Some(l) => (l.file.unwrap_or("?"), l.line.unwrap_or(0)),
                None => ("?", 0),
            };
            writeln!(out, "{} {}:{}", name, file, line)?;
        }
    }
    Ok(())
}
