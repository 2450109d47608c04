//! A program whose workers do what their context says, by hand. See `raw` in the library.

fn main() {
    fastmap_test_jails::raw::enter(fastmap_test_jails::raw::Greet::Honest);
}
