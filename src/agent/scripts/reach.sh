# Tries the gateway as the agent would: any answer will do. Prints `reached=yes|no|unknown`, of what failed `why=WORDS`, and `ended=CODE`
# when the agent has ended, which only the gateway can be told. Args: seconds.
[ -r "$state/agent.env" ] || { echo reached=unknown; exit 0; }
n=$(cat "$state/launched" 2>/dev/null)
url=$(. "$state/agent.env" && printf %s "$AUTOVIBE_GATEWAY") said='' reached=unknown
if [ -n "$url" ] && command -v curl >/dev/null; then
  said=$(. "$state/agent.env" && curl -sS --noproxy '*' -m "$1" -o /dev/null "$url/v1/models" 2>&1)
  # A certificate that curl does not know is an answer that it could not read; agents know others.
  case $? in 0) reached=yes ;; 60 | 77) ;; *) reached=no ;; esac
elif [ -n "$url" ] && command -v wget >/dev/null; then
  if said=$(timeout "$1" wget -O /dev/null "$url/v1/models" 2>&1); then reached=yes; else reached=no; fi
  # It fails on an answer such as 401 too, and then names it.
  case $said in *HTTP/1.* | *'ERROR 4'* | *'ERROR 5'* | *' 401 '*) reached=yes ;; *certificate*) reached=unknown ;; esac
fi
echo "reached=$reached"
if [ "$reached" = no ]; then printf 'why=%s\n' "$(printf '%s\n' "$said" | tail -n 1 | cut -c 1-200)"; fi
if [ -n "$n" ] && find_exit "$n"; then printf 'ended=%s\n' "$code"; fi
exit 0
