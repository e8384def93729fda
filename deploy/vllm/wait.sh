#!/usr/bin/env bash
# Waits until vLLM answers at http://127.0.0.1:PORT/health, as long as its process MAINPID lives: the unit's start.
set -euo pipefail

until curl --silent --fail --output /dev/null --max-time 5 "http://127.0.0.1:$PORT/health"; do
    kill -0 "$MAINPID" 2>/dev/null || exit 1
    sleep 1
done
