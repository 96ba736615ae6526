# VM exits an operation: stacked by reason when the bars can share a linear
# axis; otherwise their totals on a logarithmic one above, and the reasons'
# shares below, since segments of a bar mean nothing on a logarithmic axis.
# Columns: slot, label, exits, exits stacked below, all of the bar.
unset multiplot
reset
array patterns = [3, 2, 6, 1, 5, 4, 0]
set key outside top right reverse Left
set grid ytics lc '#cccccc'
set style fill pattern 3 border lt -1
set xrange [-0.6 : slots - 0.4]
set xtics rotate by -40 nomirror scale 0.5
half = 0.36
apart = high > 20 * low
colour(i) = colours[1 + (i + 2) % 8]
if (apart) {
    set multiplot title title_text."\n".place_text
    set lmargin at screen 95.0 / width
    set rmargin at screen 1 - 190.0 / width
    set bmargin at screen 0.70
    set tmargin at screen 0.90
    set logscale y
    set yrange [10 ** floor(log10(low * 0.7)) : 10 ** ceil(log10(high * 4))]
    set format y '1e%T'
    if (low > 1e-4 && high < 1e6) { set format y '%g' }
    set ylabel 'VM exits / operation'
    set format x ''
    unset key
    plot data index 0 using 1:5:(2 * half) with boxes fill solid 0.25 \
             lc rgb '#555555' notitle, \
         data index 0 using 1:5:(sprintf('%.2g', $5)) \
             with labels center offset 0, 0.6 font ',8' notitle
    unset logscale y
    set key outside top right reverse Left
    set bmargin at screen 0.28
    set tmargin at screen 0.66
    set format x
    set yrange [0 : 100]
    set format y '%g %%'
    set ylabel 'share of exits'
    plot for [i = 0 : series - 1] data index i \
        using 1:(0):($1 - half):($1 + half):(100 * $4 / $5):(100 * ($3 + $4) / $5):xtic(2) \
        with boxxyerror fill pattern patterns[i + 1] lc rgb colour(i) \
        title columnheader(1)
    unset multiplot
} else {
    set title title_text."\n".place_text
    set yrange [0 : high * 1.12]
    set ylabel 'VM exits / operation'
    plot for [i = 0 : series - 1] data index i \
             using 1:(0):($1 - half):($1 + half):4:($3 + $4):xtic(2) \
             with boxxyerror fill pattern patterns[i + 1] lc rgb colour(i) \
             title columnheader(1)
}
