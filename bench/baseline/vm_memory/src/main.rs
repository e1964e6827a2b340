// SPDX-License-Identifier: MIT
//! The vm-memory peer of `guestram bench`: looks up and changes a GuestMemoryAtomic as the C loops
//! do, with the same addresses, in short pieces so that they can be interleaved with them.
//!
//! stdin: one text line `RANGES STRIDE LENGTH COUNT`, then COUNT little-endian u64 addresses (COUNT
//! a power of two), then one request a line; stdout: one answer a line.
//!   lookup DEPENDENT THREADS START ITERATIONS [PROCESSOR...]  ->  ns of the slowest thread
//!   empty  DEPENDENT THREADS START ITERATIONS [PROCESSOR...]  ->  the same loop without the lookup
//!   update ITERATIONS               ->  ns of all pairs of insert_region + remove_region
//! Ends with stdin.
use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// `d` is 0 for every host address of a process, which the compiler cannot know.
#[inline(always)]
fn walk<F: Fn(u64) -> u64>(
    trace: &[u64],
    start: usize,
    iterations: usize,
    dependent: bool,
    find: F,
) -> u64 {
    let mask = trace.len() - 1;
    let mut sum = 0u64;
    let mut d = 0u64;
    for k in 0..iterations {
        let host = if dependent {
            find(trace[(start + k) & mask] + d)
        } else {
            find(trace[(start + k) & mask])
        };
        sum = sum.wrapping_add(host);
        if dependent {
            d = host >> 62;
        }
    }
    sum
}

/// As the C contenders: a pointer to 8 bytes that are known to lie in one region.
#[inline(always)]
fn host(memory: &Memory, addr: u64) -> u64 {
    memory
        .memory()
        .get_slice(GuestAddress(addr), 8)
        .map_or(0, |s| s.as_ptr() as u64)
}

#[inline(never)]
fn lookup_independent(memory: &Memory, trace: &[u64], start: usize, n: usize) -> u64 {
    walk(trace, start, n, false, |a| host(memory, a))
}

#[inline(never)]
fn lookup_dependent(memory: &Memory, trace: &[u64], start: usize, n: usize) -> u64 {
    walk(trace, start, n, true, |a| host(memory, a))
}

#[inline(never)]
fn empty_independent(_: &Memory, trace: &[u64], start: usize, n: usize) -> u64 {
    walk(trace, start, n, false, |a| a)
}

#[inline(never)]
fn empty_dependent(_: &Memory, trace: &[u64], start: usize, n: usize) -> u64 {
    walk(trace, start, n, true, |a| a)
}

fn pin(processor: Option<usize>) {
    if let Some(p) = processor {
        // SAFETY: plain system call on a local set
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(p, &mut set);
            libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
        }
    }
}

type Loop = fn(&Memory, &[u64], usize, usize) -> u64;

fn timed(
    run: Loop,
    memory: &Memory,
    trace: &Arc<Vec<u64>>,
    threads: usize,
    start: usize,
    iterations: usize,
    processors: &[usize],
) -> (u128, u64) {
    let barrier = Arc::new(Barrier::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|t| {
            let (memory, trace, barrier) = (memory.clone(), trace.clone(), barrier.clone());
            let processor = processors.get(t).copied();
            thread::spawn(move || {
                pin(processor);
                let first = start + t * 7919;
                let warm = (iterations / 4).min(trace.len());
                let mut sum = run(&memory, &trace, first, warm);
                barrier.wait();
                let begin = Instant::now();
                sum = sum.wrapping_add(run(&memory, &trace, first, iterations));
                (begin.elapsed().as_nanos(), sum)
            })
        })
        .collect();
    workers
        .into_iter()
        .map(|w| w.join().expect("a worker ended"))
        .fold((0, 0u64), |a, b| (a.0.max(b.0), a.1.wrapping_add(b.1)))
}

fn publish(memory: &Memory, next: GuestMemoryMmap) {
    memory.lock().expect("nobody panics").replace(next);
}

fn update(memory: &Memory, holes: &[u64], length: u64, iterations: usize) -> u128 {
    let regions: Vec<_> = holes
        .iter()
        .map(|addr| {
            let memory = MmapRegion::new(length as usize).expect("memory");
            Arc::new(GuestRegionMmap::new(memory, GuestAddress(*addr)).expect("region"))
        })
        .collect();
    let begin = Instant::now();
    for i in 0..iterations {
        let region = &regions[i % regions.len()];
        let with = memory.memory().insert_region(region.clone()).expect("insert");
        publish(memory, with);
        let (without, _) = memory
            .memory()
            .remove_region(region.start_addr(), length)
            .expect("remove");
        publish(memory, without);
    }
    begin.elapsed().as_nanos()
}

fn main() {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line).expect("first line");
    let first: Vec<u64> = line.split_whitespace().map(|w| w.parse().expect("number")).collect();
    let (ranges, stride, length, count) = (first[0], first[1], first[2], first[3] as usize);
    let mut bytes = vec![0u8; count * 8];
    input.read_exact(&mut bytes).expect("addresses");
    let trace: Arc<Vec<u64>> = Arc::new(
        bytes
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes")))
            .collect(),
    );
    let table: Vec<_> = (0..ranges)
        .map(|i| (GuestAddress(i * stride), length as usize))
        .collect();
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::from_ranges(&table).expect("memory"));
    for request in input.lines() {
        let request = request.expect("a line");
        let words: Vec<&str> = request.split_whitespace().collect();
        let number = |i: usize| -> usize { words[i].parse().expect("number") };
        let ns = match words[0] {
            "update" => {
                // the holes behind the ranges that the first recorded addresses lie in
                let holes: Vec<u64> = trace[..64.min(trace.len())]
                    .iter()
                    .map(|a| a / stride * stride + length)
                    .collect();
                update(&memory, &holes, length, number(1))
            }
            verb => {
                let run: Loop = match (verb, number(1)) {
                    ("lookup", 0) => lookup_independent,
                    ("lookup", _) => lookup_dependent,
                    (_, 0) => empty_independent,
                    (_, _) => empty_dependent,
                };
                let processors: Vec<usize> = (5..words.len()).map(number).collect();
                timed(run, &memory, &trace, number(2), number(3), number(4), &processors).0
            }
        };
        println!("{}", ns);
        io::stdout().flush().expect("stdout");
    }
}
