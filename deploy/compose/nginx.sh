#!/usr/bin/env bash
# What nginx's container runs: the site in front of the one copy of the service, for DOMAIN, with the certificate in /tls.
set -euo pipefail

ln -sf /dev/stdout /var/log/nginx/avito-ai.access.log
ln -sf /dev/stderr /var/log/nginx/error.log
bash /deploy/nginx/render.sh site "$DOMAIN" /tls/fullchain.pem /tls/privkey.pem avito-ai:8085 >/etc/nginx/conf.d/avito-ai.conf
exec nginx -g 'daemon off;'
