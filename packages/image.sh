#!/bin/sh
# Puts together what the image has besides certificates: from static programs in DIRECTORY, into ROOT.
# From the root of the workspace: sh packages/image.sh DIRECTORY ROOT
set -eu

install -D -m 0755 "$1/lb-agent" "$2/usr/local/sbin/lb-agent"
install -D -m 0755 "$1/lbctl" "$2/usr/local/bin/lbctl"
install -D -m 0644 packages/lb-agent.yaml "$2/etc/lb-agent/lb-agent.yaml"
