#!/usr/bin/env bash
# Takes the pictures of the dashboard: a real browser, a real proxy, real traffic for a minute and a half. dashboard.png
# is the README's; the others are to be looked at and lie in target/pictures.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p target/pictures
PICTURES="$PWD/target/pictures" cargo test -p ratelimit-proxy --test end_to_end -- dashboard::pictures_are_taken
cp target/pictures/dashboard.png docs/pictures/dashboard.png
