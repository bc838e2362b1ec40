//! The preloaded library, and the page that it shares with the test.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words of 8 bytes, as shim.c has them.
const SEEN: u64 = 0;
const FIRST: u64 = 1;
const LAST: u64 = 2;
const ERROR: u64 = 3;
const FIRED: u64 = 4;
const OFFSET: u64 = 5;
const KINDS: u64 = 6;
const WHAT: u64 = 8 * (KINDS + 32);

/// What fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which call is the first, from 1; none for 0.
    pub first: u64,
    /// That one alone, or all from then on.
    pub once: bool,
    /// The errno.
    pub error: i32,
}

pub const ENOSPC: i32 = 28;
pub const EIO: i32 = 5;

pub struct Shim {
    library: PathBuf,
    path: PathBuf,
    page: File,
}

impl Shim {
    /// Builds the library, and makes a page, in a folder.
    pub fn build(dir: &Path) -> Self {
        let (library, path) = (dir.join("shim.so"), dir.join("page"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&library).arg(source);
        let built = cc.output().expect("this test needs a C compiler: apt-get install gcc libc6-dev");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let page = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        page.set_len(8192).unwrap();
        Self { library, path, page }
    }

    /// The same page.
    pub fn again(&self) -> Self {
        let page = self.page.try_clone().unwrap();
        Self { library: self.library.clone(), path: self.path.clone(), page }
    }

    /// What stands before a command that is to have faults below a folder.
    pub fn before(&self, below: &Path) -> Vec<String> {
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let below = set("JIT_FAULT_BELOW", below);
        vec!["env".to_owned(), set("LD_PRELOAD", &self.library), set("JIT_FAULT_PAGE", &self.path), below]
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, 8 * at).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, at: u64, value: u64) {
        self.page.write_all_at(&value.to_ne_bytes(), 8 * at).unwrap();
    }

    /// From now on calls are counted anew, and these fail.
    pub fn arm(&self, fault: Fault) {
        self.set(FIRST, 0);
        self.set(FIRED, 0);
        self.page.write_all_at(&[0; 1024], WHAT).unwrap();
        (0..32).for_each(|kind| self.set(KINDS + kind, 0));
        self.set(LAST, if fault.once { fault.first } else { u64::MAX });
        self.set(ERROR, u64::try_from(fault.error).unwrap());
        self.set(SEEN, 0);
        self.set(FIRST, fault.first);
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        self.set(FIRST, 0);
    }

    /// How many calls there were, and how many of them failed.
    pub fn counted(&self) -> (u64, u64) {
        (self.word(SEEN), self.word(FIRED))
    }

    /// How many there were of each kind, in the order of shim.c.
    pub fn kinds(&self) -> Vec<u64> {
        (0..32).map(|kind| self.word(KINDS + kind)).collect()
    }

    /// The first that failed: name and path.
    pub fn what(&self) -> String {
        let mut bytes = [0; 1024];
        self.page.read_exact_at(&mut bytes, WHAT).unwrap();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    /// Moves the wall clock, to so far from the right time.
    pub fn set_wall(&self, offset_s: i64) {
        self.set(OFFSET, u64::from_ne_bytes(offset_s.to_ne_bytes()));
    }
}
