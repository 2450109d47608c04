//! A program whose workers bring five descriptors with their greeting.

fn main() {
    fastmap_test_jails::raw::enter(fastmap_test_jails::raw::Greet::Ends(5));
}
