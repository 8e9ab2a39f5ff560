//! What the crates pull in: each framework behind its feature, and no arrow that points back.

use std::process::Command;

/// Returns the names of all packages that a package needs in its build.
fn needs(package: &str, features: &[&str]) -> Vec<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--prefix=none", "--edges=normal", "--format={p}", "--package", package]);
    let output = tree.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn a_framework_comes_with_its_feature_only() {
    let gated = [
        ("actix-web", "page"),
        ("tera", "template"),
        ("memcache", "memcached"),
        ("r2d2-memcache", "memcached-r2d2"),
        ("diesel", "database"),
    ];
    let bare = needs("larder-cache", &["--no-default-features"]);
    assert!(bare.contains(&"serde".to_owned()));
    for (package, feature) in gated {
        let package = package.to_owned();
        assert!(!bare.contains(&package), "{package} is there without {feature}");
        let with = needs("larder-cache", &["--no-default-features", "--features", feature]);
        assert!(with.contains(&package), "{package} is not there with {feature}");
    }
}

#[test]
fn no_arrow_points_back() {
    let ours = |package: &str| {
        let mut ours = needs(package, &["--all-features"]);
        ours.retain(|name| name.starts_with("larder-") && name != package);
        ours.sort();
        ours.dedup();
        ours
    };
    assert_eq!(ours("larder-cache"), Vec::<String>::new());
    assert_eq!(ours("larder-models"), ["larder-cache"]);
    assert_eq!(ours("larder-web"), ["larder-cache", "larder-models"]);
}
