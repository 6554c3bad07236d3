# Prints what a command wrote, in base64: to standard output and error what it wrote there. Args: its id, bytes of each to pass over, most
# bytes of each. There is nothing yet of one that only begins.
[ -d "$dir" ] || [ "$2 $3" = "0 0" ] || { echo "what it wrote is gone; was the guest started again?" >&2; exit 3; }
part() { if [ "$3" -gt 0 ] && [ -s "$dir/$1" ]; then tail -c "+$(($2 + 1))" "$dir/$1" | head -c "$3" | base64; fi; }
part out "$2" "$4"
part err "$3" "$5" >&2
exit 0
