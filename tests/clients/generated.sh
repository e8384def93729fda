#!/usr/bin/env bash
# Make clients of the OpenAPI document of a running service with two generators, call the service with them, and lint the
# document. Needs curl, Node.js with npm, and Python; the generators are installed into a folder that is removed.
#
# usage: tests/clients/generated.sh [ADDRESS]
set -euo pipefail
address=${1:-http://127.0.0.1:8085}
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$here"/generated_client.* "$here/../../docs/red-square.png" "$folder"
cd "$folder"
curl -sf "$address/api/openapi.json" -o openapi.json

python3 -m venv venv
export PATH="$folder/venv/bin:$PATH"
pip install -q openapi-python-client==0.29.1
openapi-python-client generate --path openapi.json --output-path client
PYTHONPATH=client python generated_client.py "$address"

npm init -y >npm.log
npm install --silent --no-audit --no-fund openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3 \
  @types/node@20 @redocly/cli@2.77.0
npx openapi-typescript openapi.json -o api.d.ts
npx tsc --strict --target es2022 --module nodenext generated_client.mts
node generated_client.mjs "$address"

npx redocly lint openapi.json
