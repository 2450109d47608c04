#!/usr/bin/env bash
# systemd 252 (Debian's 252.39-1~deb12u2): the list of system calls that its manual recommends as the start for services,
# SystemCallFilter=@system-service, has none of Landlock's three calls and not seccomp(2), and no other of its groups has them,
# though it knows their names. So a service that confines itself further, which needs no right, is ended by SIGSYS for it under the
# list (without SystemCallErrorNumber=), and the four names must be given one by one. They got a group, @sandbox, in a later
# version (257 has it), which @system-service does not name there either.
#
# Seen:  known: landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
#        in @system-service and all that it names: none
#        in any group but @known: none
# Takes apt-get with Debian 12's packages (nothing is installed outside of a temporary folder), on x86-64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2
for package in *.deb; do dpkg-deb -x "$package" root; done
groups() { LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu/systemd" "$folder/root/usr/bin/systemd-analyze" syscall-filter "$@" 2>/dev/null; }
# The calls of a group, with those of the groups that it names.
calls() {
  local name
  for name in $(groups "$1" | sed -n 's/^ \+\([@a-z_0-9]\+\)$/\1/p'); do
    case $name in @*) calls "$name" ;; *) echo "$name" ;; esac
  done
}
sandbox='^(landlock_add_rule|landlock_create_ruleset|landlock_restrict_self|seccomp)$'
words() { grep -E "$sandbox" | sort -u | tr '\n' ' ' || true; }
known=$(calls @known | words)
service=$(calls @system-service | words)
every=$(groups | sed -n 's/^\(@[a-z-]*\)$/\1/p' | grep -v '^@known$' | while read -r group; do calls "$group"; done | words)
size=$(calls @system-service | sort -u | wc -l)
printf '%s\n' "known: ${known:-none}" "in @system-service and all that it names ($size calls): ${service:-none}" "in any group but @known: ${every:-none}"
[ "$size" -gt 200 ] && [ -z "$service" ] && [ -z "$every" ] && [ "$known" = 'landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp ' ]
