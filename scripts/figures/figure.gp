# One figure as SVG and PNG. The program sets `name`, `scripts`, `script` and
# what the script reads, and starts this in the folder of the data.
data = name.'.dat'
width = 900
height = 520
if (script eq 'exits.gp') height = 640
if (exists("slots")) width = 420 + 40 * slots
if (width < 760) width = 760
if (width > 2400) width = 2400

# Okabe & Ito's colours, which remain distinct for colour-blind readers, in the
# order of the techniques: native, emulation, shadow, nested,
# trap, pv, bt, agile, flat.
array colours = ['#000000', '#e69f00', '#0072b2', '#d55e00', \
                 '#009e73', '#cc79a7', '#56b4e9', '#999999', \
                 '#f0e442']
array patterns = [3, 1, 2, 6, 5, 4, 7, 0]

do for [kind in "svg png"] {
    if (kind eq 'svg') {
        set terminal svg size width, height noenhanced background '#ffffff' \
            font 'DejaVu Sans,13'
    } else {
        set terminal pngcairo size width, height noenhanced \
            background '#ffffff' font 'DejaVu Sans,10'
    }
    set output name.'.'.kind
    load scripts.'/'.script
    unset output
}
