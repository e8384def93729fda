#!/usr/bin/env bash
# Entry point of the nginx container: the site DOMAIN in front of one copy of the service, with the certificate in /tls.
set -euo pipefail

ln -sf /dev/stdout /var/log/nginx/avito-ai.access.log
ln -sf /dev/stderr /var/log/nginx/error.log
bash /deploy/nginx/render.sh site "$DOMAIN" /tls/fullchain.pem /tls/privkey.pem avito-ai:8085 >/etc/nginx/conf.d/avito-ai.conf
exec nginx -g 'daemon off;'
