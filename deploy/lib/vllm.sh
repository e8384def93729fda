# shellcheck shell=bash
# What systemd makes of the options of vLLM in /etc/avito-ai/vllm-MODEL.env, which are the operator's.

# Prints what has to be changed in the file $1: JSON must stand within single quotes, since systemd takes double ones away.
# A line for each option.
options_to_change() {
    local found
    sed -n 's/^OPTIONS=//p' "$1" | tail -n 1 | sed -e "s/^'\([^']*\)'\$/\1/" -e 's/^"\(.*\)"$/\1/' -e "s/'[^']*'//g" |
        { grep -oE -e '--[a-z-]+[ =]+"?[{]"[^}]*[}]*' || true; } | while IFS= read -r found; do
        echo "$1: vLLM does not start with the line OPTIONS, since systemd takes the quotes of JSON away. Write ${found%%[ =]*} '{${found#*\{}' there."
    done
}
