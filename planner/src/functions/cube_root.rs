//! The cube root of the C library. Rust brings one of its own, which rounds differently in the last digit: Postgres
//! answers `cbrt(27)` with what the library of its machine says, and so do we.

use std::sync::OnceLock;

type CubeRoot = extern "C" fn(f64) -> f64;

/// The cube root as the C library has it, or Rust's where no such library is loaded.
pub fn cbrt(x: f64) -> f64 {
    static OF_LIBRARY: OnceLock<Option<CubeRoot>> = OnceLock::new();
    match OF_LIBRARY.get_or_init(of_library) {
        Some(cbrt) => cbrt(x),
        None => x.cbrt(),
    }
}

#[allow(unsafe_code)]
fn of_library() -> Option<CubeRoot> {
    // SAFETY: the name is a C string. What the loaded libraries export as `cbrt` is that of C99, `double cbrt(double)`,
    // which is what the pointer is used as; no library is ever unloaded.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"cbrt".as_ptr());
        (!found.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, CubeRoot>(found))
    }
}

#[cfg(test)]
mod tests {
    use super::cbrt;

    #[test]
    fn signs_and_limits() {
        assert_eq!([cbrt(8.0), cbrt(-8.0), cbrt(0.0), cbrt(f64::INFINITY)], [2.0, -2.0, 0.0, f64::INFINITY]);
        assert!(cbrt(f64::NAN).is_nan());
        assert!((cbrt(27.0) - 3.0).abs() < 1e-15);
    }
}
