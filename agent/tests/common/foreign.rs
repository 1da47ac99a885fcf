//! A program that is not ours, in the smallest ELF object (elf(5)) that the kernel's side of aya takes.

use aya::Ebpf;

/// Its name in the kernel.
pub const NAME: &str = "foreign";

/// Loads an object with one program, of the kind that this section (`xdp`, `classifier`) stands for. It does nothing but
/// answer `answer`.
pub fn load(section: &str, answer: i32) -> Ebpf {
    Ebpf::load(&object(section, answer)).unwrap()
}

const HEADER: u16 = 64;
const SECTION_HEADER: u16 = 64;
const SYMBOL: usize = 24;

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const ALLOCATED: u64 = 2;
const EXECUTABLE: u64 = 4;

/// Places in the list of sections.
const NAMES_AT: u16 = 1;
const PROGRAM_AT: u16 = 2;

#[derive(Default)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    link: u32,
    entry_size: usize,
    bytes: Vec<u8>,
}

fn object(program_section: &str, answer: i32) -> Vec<u8> {
    let names = format!("\0names\0{program_section}\0license\0symbols\0{NAME}\0");
    let name = |name: &str| names.find(&format!("\0{name}\0")).expect("a name of the list") as u32 + 1;
    let code = code(answer);
    let symbols = [vec![0; SYMBOL], symbol(name(NAME), code.len())].concat();
    let sections = [
        Section::default(),
        Section { name: name("names"), kind: STRTAB, bytes: names.clone().into(), ..Section::default() },
        Section {
            name: name(program_section),
            kind: PROGBITS,
            flags: ALLOCATED | EXECUTABLE,
            bytes: code,
            ..Section::default()
        },
        Section {
            name: name("license"),
            kind: PROGBITS,
            flags: ALLOCATED,
            bytes: b"GPL\0".into(),
            ..Section::default()
        },
        Section {
            name: name("symbols"),
            kind: SYMTAB,
            link: NAMES_AT.into(),
            entry_size: SYMBOL,
            bytes: symbols,
            ..Section::default()
        },
    ];
    let count = sections.len() as u16;
    let (mut contents, mut headers) = (Vec::new(), Vec::new());
    for section in sections {
        headers.extend(section.header(usize::from(HEADER) + contents.len()));
        contents.extend(section.bytes);
        contents.resize(contents.len().next_multiple_of(8), 0);
    }
    [header(usize::from(HEADER) + contents.len(), count), contents, headers].concat()
}

fn header(sections_at: usize, sections: u16) -> Vec<u8> {
    // 64 bits, little endian, version 1.
    const IDENTIFICATION: [u8; 16] = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const RELOCATABLE: u16 = 1;
    const BPF: u16 = 247;
    let no_segments = [0_u16; 2];
    let rest = [HEADER, no_segments[0], no_segments[1], SECTION_HEADER, sections, NAMES_AT];
    [
        &IDENTIFICATION[..],
        &RELOCATABLE.to_le_bytes(),
        &BPF.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[0; 16],
        &(sections_at as u64).to_le_bytes(),
        &[0; 4],
        &rest.map(u16::to_le_bytes).concat(),
    ]
    .concat()
}

impl Section {
    fn header(&self, offset: usize) -> Vec<u8> {
        const ALIGNMENT: u64 = 8;
        [
            &self.name.to_le_bytes()[..],
            &self.kind.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &[0; 8],
            &(offset as u64).to_le_bytes(),
            &(self.bytes.len() as u64).to_le_bytes(),
            &self.link.to_le_bytes(),
            &[0; 4],
            &ALIGNMENT.to_le_bytes(),
            &(self.entry_size as u64).to_le_bytes(),
        ]
        .concat()
    }
}

fn symbol(name: u32, size: usize) -> Vec<u8> {
    const GLOBAL_FUNCTION: u8 = 1 << 4 | 2;
    [
        &name.to_le_bytes()[..],
        &[GLOBAL_FUNCTION, 0],
        &PROGRAM_AT.to_le_bytes(),
        &[0; 8],
        &(size as u64).to_le_bytes(),
    ]
    .concat()
}

/// `r0 = answer; exit`
fn code(answer: i32) -> Vec<u8> {
    const SET_R0: [u8; 4] = [0xb7, 0, 0, 0];
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    [&SET_R0[..], &answer.to_le_bytes(), &EXIT].concat()
}
