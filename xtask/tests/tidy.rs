//! The rules of the source tree, as a test: `cargo test` checks them too.

#[test]
fn the_source_tree_is_tidy() {
    let root = xtask::workspace::Workspace::here().root;
    let complaints = xtask::tidy::check(&root).expect("the source tree can be read");
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
