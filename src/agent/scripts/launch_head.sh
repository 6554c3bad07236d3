mkdir -p "$state"
cat >"$state/agent.sh.$$" <<'AUTOVIBE_WRAPPER'
