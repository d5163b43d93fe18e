#!/bin/sh
# Draw a picture with curl, then post a job, follow its events and fetch its picture.
set -eu
url=${IMAGEGEN_URL:-http://127.0.0.1:4200}

ask() {
    curl --fail-with-body --silent --show-error --header "X-API-Key: ${IMAGEGEN_API_KEY:-}" "$@"
}

post() {
    ask "$@" --header 'Content-Type: application/json' # --json would also ask for JSON in place of the picture
}

post "$url/generate" --data '{"prompt": "a red circle on a blue background", "seed": 7}' --output curl.png

job=$(post "$url/v1/jobs" --data '{"prompt": "a lake at dawn", "seed": 8}' | sed 's/.*"id": *"\([^"]*\)".*/\1/')
ask "$url/v1/jobs/$job/events" --no-buffer | grep '^event:'
ask "$url/v1/jobs/$job/image" --output curl-job.png
