//! Libraries that compute by threads of their own.

use std::env;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::checksum;
use crate::library::{Library, functions, open, with};
use crate::{ABSENT, Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("rayon", "sum 199999", || {
        let sum: u64 = (0..100_000u64).into_par_iter().map(|n| n * n % 7).sum();
        let mut numbers: Vec<u64> = (0..100_000).map(|n| n * 7919 % 100_003).collect();
        numbers.par_sort_unstable();
        format!("sum {sum}, {}", checksum(numbers.iter().flat_map(|number| number.to_le_bytes())))
    }),
    act("rayon with a pool of 40 threads", "40 threads", || {
        match rayon::ThreadPoolBuilder::new().num_threads(40).build() {
            Ok(pool) => {
                let seen = pool.broadcast(|context| context.index());
                format!("{} threads", seen.len())
            }
            Err(why) => why.to_string(),
        }
    }),
    act("OpenMP of GCC (libgomp), four threads", "sum 10", || with("libgomp.so.1", gomp)),
    act("OpenMP of LLVM as installed, four threads", "sum 10", || with("libomp.so.5", libomp)),
    act("OpenBLAS: a product of matrices", "sum", || with("libopenblas.so.0", blas)),
    act("OpenBLAS: a system of equations", "code 0: [1.0, 2.0, 3.0]", || with("libopenblas.so.0", equations)),
    act("FFTW", "", || with("libfftw3.so.3", fourier)),
];

pub(crate) const LIBOMP_14: &[Act] =
    &[act("OpenMP of LLVM 14, given with the map", "sum 10", || given("libomp-14"))];
pub(crate) const LIBOMP_16: &[Act] =
    &[act("OpenMP of LLVM 16, given with the map", "sum 10", || given("libomp-16"))];
pub(crate) const LIBOMP_19: &[Act] =
    &[act("OpenMP of LLVM 19, given with the map", "sum 10", || given("libomp-19"))];

/// A library that came as the map's context: see `perform`.
fn given(name: &str) -> String {
    let path = env::temp_dir().join(name);
    if !path.exists() {
        return ABSENT.to_owned();
    }
    open(&path.to_string_lossy()).map_or_else(|| "it can't be opened".to_owned(), libomp)
}

/// Adds the number of the thread, from 1 on.
fn add(sum: *mut u64, thread: c_int) {
    // SAFETY: the number that is given below, which all threads reach so.
    unsafe { AtomicU64::from_ptr(sum) }.fetch_add(thread as u64 + 1, Ordering::Relaxed);
}

type Number = unsafe extern "C" fn() -> c_int;

fn gomp(library: Library) -> String {
    functions!(library;
        GOMP_parallel: unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, u32, u32),
    );
    unsafe extern "C" fn part(sum: *mut c_void) {
        let library = open("libgomp.so.1").expect("it is open");
        functions!(library; omp_get_thread_num: Number);
        // SAFETY: takes nothing.
        add(sum.cast(), unsafe { omp_get_thread_num() });
    }
    let mut sum = 0u64;
    // SAFETY: as GCC calls it.
    unsafe { GOMP_parallel(part, (&raw mut sum).cast(), 4, 0) };
    format!("sum {sum}")
}

/// What clang makes of a parallel loop.
fn libomp(library: Library) -> String {
    type Part = unsafe extern "C" fn(*const i32, *const i32, *mut u64, Number);
    #[repr(C)]
    struct Place {
        reserved: [i32; 4],
        source: *const c_char,
    }
    unsafe extern "C" fn part(_: *const i32, _: *const i32, sum: *mut u64, number: Number) {
        // SAFETY: takes nothing.
        add(sum, unsafe { number() });
    }
    functions!(library;
        __kmpc_global_thread_num: unsafe extern "C" fn(*const Place) -> i32,
        __kmpc_push_num_threads: unsafe extern "C" fn(*const Place, i32, i32),
        __kmpc_fork_call: unsafe extern "C" fn(*const Place, i32, Part, ...),
        omp_get_thread_num: Number,
    );
    let place = Place { reserved: [0, 2, 0, 0], source: c";a;b;1;1;;".as_ptr() };
    let mut sum = 0u64;
    // SAFETY: as clang calls it: a place, the number of arguments, the part and its arguments.
    unsafe {
        let thread = __kmpc_global_thread_num(&raw const place);
        __kmpc_push_num_threads(&raw const place, thread, 4);
        __kmpc_fork_call(&raw const place, 2, part, &raw mut sum, omp_get_thread_num);
    }
    format!("sum {sum}")
}

/// Whole numbers, so that the order of the additions does not matter.
fn blas(library: Library) -> String {
    const N: usize = 256;
    functions!(library;
        cblas_dgemm: unsafe extern "C" fn(
            c_int, c_int, c_int, c_int, c_int, c_int, f64,
            *const f64, c_int, *const f64, c_int, f64, *mut f64, c_int
        ),
    );
    let one: Vec<f64> = (0..N * N).map(|n| (n * 31 % 17) as f64).collect();
    let other: Vec<f64> = (0..N * N).map(|n| (n * 7 % 13) as f64).collect();
    let mut product = vec![0.0; N * N];
    let n = N as c_int;
    // SAFETY: matrices of this size, by rows (101), as they are (111).
    unsafe {
        let (one, other) = (one.as_ptr(), other.as_ptr());
        cblas_dgemm(101, 111, 111, n, n, n, 1.0, one, n, other, n, 0.0, product.as_mut_ptr(), n);
    }
    format!("sum {}", product.iter().sum::<f64>())
}

fn equations(library: Library) -> String {
    functions!(library;
        dgesv_: unsafe extern "C" fn(
            *const c_int, *const c_int, *mut f64, *const c_int, *mut c_int, *mut f64, *const c_int, *mut c_int
        ),
    );
    let mut factors = [2.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 8.0];
    let mut right = [2.0, 8.0, 24.0];
    let (n, one, mut pivots, mut code) = (3, 1, [0; 3], -1);
    // SAFETY: a matrix of three by three, and one right side.
    unsafe {
        let (factors, right) = (factors.as_mut_ptr(), right.as_mut_ptr());
        let (n, one) = (&raw const n, &raw const one);
        dgesv_(n, one, factors, n, pivots.as_mut_ptr(), right, n, &raw mut code);
    }
    format!("code {code}: {right:?}")
}

fn fourier(library: Library) -> String {
    const ESTIMATE: u32 = 64;
    functions!(library;
        fftw_plan_dft_r2c_1d: unsafe extern "C" fn(c_int, *mut f64, *mut [f64; 2], u32) -> *mut c_void,
        fftw_execute: unsafe extern "C" fn(*mut c_void),
        fftw_destroy_plan: unsafe extern "C" fn(*mut c_void),
    );
    let mut signal: Vec<f64> = (0..1024).map(|n| f64::from(n % 16)).collect();
    let mut waves = vec![[0.0; 2]; 513];
    // SAFETY: room for as many numbers as the plan has.
    unsafe {
        let plan = fftw_plan_dft_r2c_1d(1024, signal.as_mut_ptr(), waves.as_mut_ptr(), ESTIMATE);
        fftw_execute(plan);
        fftw_destroy_plan(plan);
    }
    let bytes = waves.iter().flatten().flat_map(|part| part.to_le_bytes());
    format!("{} of 513, {}", waves.iter().filter(|wave| wave[0].abs() > 1.0).count(), checksum(bytes))
}
