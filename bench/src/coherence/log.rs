//! What processes note, and what follows from it.
//!
//! Each process appends to a file of its own. A record is written with one call, so that a process that is killed
//! leaves only whole records, and none is lost that it had noted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock, which all processes share.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has a monotonic clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A read that began at the time returned this version.
    Read,
    /// The datastore had committed this version at the time.
    Committed,
    /// `commit()` had returned at the time, and every node had deleted.
    Everywhere,
    /// The writer is about to kill itself; the version is the number of the step.
    Died,
}

const EVENTS: [Event; 4] = [Event::Read, Event::Committed, Event::Everywhere, Event::Died];

/// Bytes of a record: row and event, version, time.
const LEN: usize = 16;

/// The file that a process appends to. Cheap to share: a write is one system call.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    pub(super) fn append_to(path: &Path) -> Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Log(file.with_context(|| path.display().to_string())?))
    }

    pub(super) fn note(&self, event: Event, row: i64, version: i64, time: u64) {
        self.note_all(&[(event, row, version, time)]);
    }

    pub(super) fn note_all(&self, records: &[(Event, i64, i64, u64)]) {
        let mut bytes = Vec::with_capacity(records.len() * LEN);
        for &(event, row, version, time) in records {
            bytes.extend_from_slice(&((event as u32) << 28 | row as u32).to_le_bytes());
            bytes.extend_from_slice(&(version as u32).to_le_bytes());
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        (&self.0).write_all(&bytes).expect("the log is on a disk with room");
    }
}

/// Upper ends of the classes of how long a commit stayed hidden; the last class ends at the bound.
pub(super) const CLASSES: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(100), Duration::from_millis(500)];

/// What all records together say.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) reads: u64,
    pub(super) commits: u64,
    pub(super) delivered: u64,
    /// Writers that killed themselves, by step.
    pub(super) died: [u64; 8],
    /// Reads that returned a version older than one that had been committed, by class; then up to the bound; then
    /// beyond.
    pub(super) older: [u64; CLASSES.len() + 2],
    /// The longest time that a commit stayed hidden.
    pub(super) longest: Duration,
    /// Reads that began after the `commit()` of a newer version had returned that every node had deleted.
    pub(super) after_return: u64,
}

impl Verdict {
    /// Reads all logs of a folder; rows are numbered from 0 to `rows`.
    pub(super) fn over(folder: &Path, rows: usize, bound: Duration) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut committed: Vec<Vec<u64>> = vec![Vec::new(); rows];
        let mut returned: Vec<Vec<u64>> = vec![Vec::new(); rows];
        each(folder, |event, row, version, time| {
            let times = match event {
                Event::Committed => &mut committed,
                Event::Everywhere => &mut returned,
                Event::Died => return verdict.died[version & 7] += 1,
                Event::Read => return,
            };
            let times = &mut times[row];
            if times.len() <= version {
                times.resize(version + 1, u64::MAX);
            }
            times[version] = times[version].min(time);
            match event {
                Event::Committed => verdict.commits += 1,
                _ => verdict.delivered += 1,
            }
        })?;
        // When a newer version than each was there.
        for times in committed.iter_mut().chain(&mut returned) {
            let mut newer = u64::MAX;
            for time in times.iter_mut().rev() {
                newer = newer.min(std::mem::replace(time, newer));
            }
        }
        each(folder, |event, row, version, began| {
            if event != Event::Read {
                return;
            }
            verdict.reads += 1;
            if returned[row].get(version).is_some_and(|newer| *newer < began) {
                verdict.after_return += 1;
            }
            let Some(hidden) = committed[row].get(version).and_then(|newer| began.checked_sub(*newer)) else { return };
            let hidden = Duration::from_nanos(hidden);
            let class = CLASSES.iter().position(|class| hidden <= *class);
            verdict.older[class.unwrap_or(CLASSES.len() + usize::from(hidden > bound))] += 1;
            verdict.longest = verdict.longest.max(hidden);
        })?;
        Ok(verdict)
    }

    /// Reads that broke a promise.
    pub(super) fn violations(&self) -> u64 {
        self.older[CLASSES.len() + 1] + self.after_return
    }
}

fn each(folder: &Path, mut take: impl FnMut(Event, usize, usize, u64)) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        for record in fs::read(entry?.path())?.chunks_exact(LEN) {
            let number = |from: usize| u32::from_le_bytes(record[from..from + 4].try_into().expect("four bytes"));
            let time = u64::from_le_bytes(record[8..].try_into().expect("eight bytes"));
            let (first, version) = (number(0), number(4) as usize);
            take(EVENTS[(first >> 28) as usize & 3], (first & 0x0fff_ffff) as usize, version, time);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_judged_by_the_first_newer_version_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::append_to(&folder.path().join("a")).unwrap();
        let second = 1_000_000_000;
        log.note(Event::Committed, 3, 1, 10 * second);
        // Version 2 was committed by a writer that died before it could say so.
        log.note(Event::Committed, 3, 3, 20 * second);
        log.note(Event::Everywhere, 3, 3, 21 * second);
        log.note(Event::Died, 3, 2, 0);
        let reads = Log::append_to(&folder.path().join("b")).unwrap();
        for (version, began) in [(0, 9), (1, 19), (3, 30), (0, 11), (2, 22), (1, 20)] {
            reads.note(Event::Read, 3, version, began * second);
        }
        let verdict = Verdict::over(folder.path(), 10, Duration::from_secs(1)).unwrap();
        assert_eq!((verdict.reads, verdict.commits, verdict.delivered), (6, 2, 1));
        // Read at 11: at the bound. Read at 20: at that moment. Read at 22: 2 s late, after the commit had returned.
        assert_eq!(verdict.older, [1, 0, 0, 1, 1]);
        assert_eq!((verdict.after_return, verdict.violations()), (1, 2));
        assert_eq!(verdict.longest, Duration::from_secs(2));
        assert_eq!(verdict.died[2], 1);
    }
}
