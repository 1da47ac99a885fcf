//! What perf says, as data.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// One sample.
#[derive(Debug, PartialEq)]
pub struct Stack {
    /// Its name; a worker's is its pod's.
    pub thread: String,
    /// From the outermost frame to the innermost; the kernel's end with `_[k]`, as flame graphs know them.
    pub frames: Vec<String>,
}

impl Stack {
    /// Where it was.
    pub fn leaf(&self) -> &str {
        self.frames.last().map_or("", String::as_str)
    }
}

const KERNEL: &str = "_[k]";

pub fn is_kernel(frame: &str) -> bool {
    frame.ends_with(KERNEL)
}

/// Parses `perf script -F comm,tid,ip,sym,dso`.
pub fn parse(script: &str) -> Result<Vec<Stack>> {
    script.split("\n\n").filter(|block| !block.trim().is_empty()).map(parse_one).collect()
}

fn parse_one(block: &str) -> Result<Stack> {
    let mut lines = block.trim_matches('\n').lines();
    let head = lines.next().unwrap_or_default();
    // A name may have spaces; the thread's number ends the line.
    let (thread, _) =
        head.trim().rsplit_once(' ').with_context(|| format!("perf's line {head:?} names no thread"))?;
    let mut frames: Vec<String> = lines.map(frame).collect();
    frames.reverse();
    Ok(Stack { thread: thread.trim().to_owned(), frames })
}

/// `7f… symbol (object)`: the symbol, or the object where it has none.
fn frame(line: &str) -> String {
    let text = line.trim().split_once(' ').map_or("", |(_, text)| text);
    let (symbol, object) = text.rsplit_once(" (").unwrap_or((text, ""));
    let object = object.trim_end_matches(')');
    let symbol = if symbol == "[unknown]" {
        format!("[{}]", object.rsplit('/').next().unwrap_or_default())
    } else {
        shorten(symbol)
    };
    if object.starts_with('[') && object != "[vdso]" { format!("{symbol}{KERNEL}") } else { symbol }
}

/// A Rust symbol without its hash and with its characters; a semicolon would end a frame of a flame graph.
fn shorten(symbol: &str) -> String {
    let hash = symbol
        .rsplit_once("::h")
        .filter(|(_, hash)| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hash.map_or(symbol, |(name, _)| name).replace(';', ":")
}

/// Stacks as lines of a flame graph: frames with `;` between, and how often.
pub fn fold(stacks: &[Stack]) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks {
        let frames = std::iter::once(&stack.thread).chain(&stack.frames);
        *counts.entry(frames.map(String::as_str).collect::<Vec<_>>().join(";")).or_default() += 1;
    }
    counts.into_iter().map(|(stack, count)| format!("{stack} {count}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "default/client  1234
        ffffffff81 tcp_sendmsg ([kernel.kallsyms])
            55d0c0 <pillion::Relay as core::fmt::Debug>::run::h0123456789abcdef (/target/pillion)
            7f0001 [unknown] (/usr/lib/libc.so.6)

my thread  7
            55d0c0 a::<[u8; 4]> (/target/pillion)

";

    #[test]
    fn samples_are_read_from_outside_to_inside() {
        let stacks = parse(SCRIPT).unwrap();
        assert_eq!(stacks[0].thread, "default/client");
        assert_eq!(
            stacks[0].frames,
            ["[libc.so.6]", "<pillion::Relay as core::fmt::Debug>::run", "tcp_sendmsg_[k]"]
        );
        assert_eq!(stacks[0].leaf(), "tcp_sendmsg_[k]");
        assert_eq!(stacks[1].thread, "my thread");
    }

    #[test]
    fn equal_stacks_are_counted_together() {
        let stacks = parse(&SCRIPT.repeat(2)).unwrap();
        let folded = fold(&stacks);
        assert_eq!(folded.len(), 2);
        assert!(folded.contains(&"my thread;a::<[u8: 4]> 2".to_owned()), "{folded:?}");
    }
}
