#!/usr/bin/env bash
# The page's tests from a clean checkout: Chromium from Debian, packages from npm, then `npm test`.
# Takes the top's best_model.tflite and .venv; MODEL=PATH and PYTHON=PATH name others.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
npm ci --no-audit --no-fund
npm test
