#!/usr/bin/env bash
# Entry point of the nginx container: the site DOMAIN in front of one copy of the service, with the certificate in /tls.
set -euo pipefail

ln -sf /dev/stdout /var/log/nginx/avito-ai.access.log
ln -sf /dev/stderr /var/log/nginx/error.log
# What an nginx that was killed has left of requests.
rm -rf /var/cache/nginx/*
# Of the largest bodies, 64 MiB, these take 8 GiB of the volume.
printf '%s\n' 'limit_conn avito_ai_large_bodies 128;' 'limit_conn avito_ai_large_bodies_of_client 64;' >/etc/nginx/avito-ai.d/bodies.conf
bash /deploy/nginx/render.sh site "$DOMAIN" /tls/fullchain.pem /tls/privkey.pem avito-ai:8085 >/etc/nginx/conf.d/avito-ai.conf
# One worker for each core, as in the image's file, could take more memory under a flood of clients than the container has.
sed 's/^worker_processes .*/worker_processes 2;/' /etc/nginx/nginx.conf >/run/nginx.conf
exec nginx -c /run/nginx.conf -g 'daemon off;'
