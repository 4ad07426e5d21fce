//! Writes small ELF executables by the offsets of the System V ABI.
//!
//! A writer of the tests' own: it shares no structure with the reader it tests. The code in it is none.

/// A PT_LOAD; `data` follows the headers in the file.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub vaddr: u64,
    pub paddr: u64,
    pub memsz: u64,
    pub data: Vec<u8>,
}

impl Load {
    /// Loaded where it was linked for.
    pub fn at(paddr: u64, memsz: u64, data: &[u8]) -> Self {
        Self { vaddr: paddr, paddr, memsz, data: data.to_vec() }
    }
}

/// An executable; the default is a 64-bit one without loads.
#[derive(Clone, Debug)]
pub struct ElfFile {
    pub bits64: bool,
    pub e_type: u16,
    pub e_machine: u16,
    pub entry: u64,
    pub loads: Vec<Load>,
    /// Bytes between the headers and the first load's.
    pub front: Vec<u8>,
}

impl Default for ElfFile {
    fn default() -> Self {
        Self { bits64: true, e_type: 2, e_machine: 62, entry: 0x10_0000, loads: Vec::new(), front: Vec::new() }
    }
}

impl ElfFile {
    /// A 32-bit executable.
    pub fn i386() -> Self {
        Self { bits64: false, e_machine: 3, ..Self::default() }
    }

    /// As the entry point and one more load.
    pub fn load(mut self, load: Load) -> Self {
        if self.loads.is_empty() {
            self.entry = load.vaddr;
        }
        self.loads.push(load);
        self
    }

    /// Where program header `n` starts.
    pub fn phdr(&self, n: usize) -> usize {
        if self.bits64 { 64 + 56 * n } else { 52 + 32 * n }
    }

    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\0\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file[4] = if self.bits64 { 2 } else { 1 };
        let word = |file: &mut Vec<u8>, value: u64| {
            if self.bits64 {
                file.extend(value.to_le_bytes());
            } else {
                file.extend(u32::try_from(value).expect("32 bits").to_le_bytes());
            }
        };
        let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
        let int = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
        half(&mut file, self.e_type);
        half(&mut file, self.e_machine);
        int(&mut file, 1);
        word(&mut file, self.entry);
        word(&mut file, self.phdr(0) as u64); // e_phoff
        word(&mut file, 0); // e_shoff
        int(&mut file, 0);
        half(&mut file, self.phdr(0) as u16); // e_ehsize
        half(&mut file, (self.phdr(1) - self.phdr(0)) as u16); // e_phentsize
        half(&mut file, self.loads.len() as u16);
        for _ in 0..3 {
            half(&mut file, 0);
        }
        let mut offset = (self.phdr(self.loads.len()) + self.front.len()) as u64;
        for load in &self.loads {
            int(&mut file, 1);
            if self.bits64 {
                int(&mut file, 7);
            }
            for value in [offset, load.vaddr, load.paddr, load.data.len() as u64, load.memsz] {
                word(&mut file, value);
            }
            if !self.bits64 {
                int(&mut file, 7);
            }
            word(&mut file, 0x1000);
            offset += load.data.len() as u64;
        }
        file.extend(&self.front);
        for load in &self.loads {
            file.extend(&load.data);
        }
        file
    }
}
