#!/bin/sh
# Tries the Debian package, the images' files and `make install`, of static programs that are built already:
# sh packages/test.sh target/TRIPLE/PROFILE. As root, from the root of the workspace; takes the network for
# mmdebstrap, once.
set -eu

programs=$1
profile=$(basename "$programs")
triple=$(basename "$(dirname "$programs")")
made=$PWD/target/packages

"$programs/lb-agent" documents target/documents
rm -rf "$made"
cargo deb --quiet -p lb-agent --target "$triple" --profile "$profile" --no-build --fast -o "$made/lb-agent.deb"
sh packages/test-deb.sh "$made/lb-agent.deb"
# Of the whole workspace, as the other tests: alone it would be compiled anew, with fewer features.
LB_PACKAGE=$made/lb-agent.deb cargo test --quiet --workspace --exclude lb-bpf --test systemd -- --ignored
sh packages/image.sh "$programs" "$made/image"
sh packages/test-image.sh "$made/image"
sh packages/test-kube-proxy.sh "$made/image"
sh packages/test-install.sh "$programs"
rm -rf "$made"
