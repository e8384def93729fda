"""The words the adverts are made of: items by category, colours, conditions, and made-up words to copy.

Everything here is plain data plus two small generators; nothing reads the clock or a global random state.
"""

import random

ITEMS_EN = {
    "transport": "bicycle; scooter; car; motorcycle; mountain bike; electric scooter; boat; trailer; moped; van; "
    "truck; "
    "bike; kids bike; snowmobile; minibus; tractor; kayak; caravan; quad bike; road bike",
    "furniture": "sofa; chair; table; wardrobe; bed; armchair; desk; bookcase; shelf; chest of drawers; coffee table; "
    "dining table; office chair; mattress; couch; kitchen table; stool; bench; cupboard; bunk bed; nightstand; mirror",
    "electronics": "phone; laptop; tablet; camera; headphones; television; monitor; keyboard; printer; speaker; TV; "
    "smartphone; computer; game console; smart watch; router; iPhone; iPhone 12; Samsung phone; radio; projector; "
    "microphone; mouse; video card; drone; e-reader; power bank; gaming laptop",
    "home appliances": "washing machine; fridge; refrigerator; kettle; microwave; vacuum cleaner; oven; iron; toaster; "
    "blender; dishwasher; coffee machine; air conditioner; fan; heater; sewing machine; hair dryer; freezer; stove",
    "clothes and shoes": "jacket; coat; dress; boots; shoes; jeans; shirt; sweater; hat; skirt; sneakers; scarf; "
    "gloves; "
    "suit; T-shirt; fur coat; trousers; leather jacket; wedding dress; raincoat; hoodie; socks; bag; handbag; backpack",
    "goods for children": "pram; stroller; toy; doll; cot; car seat; toy car; teddy bear; building blocks; high chair; "
    "puzzle; swing; playpen; baby carrier; dollhouse; sandbox",
    "sport and leisure": "skis; skates; tent; ball; dumbbells; fishing rod; snowboard; treadmill; sleeping bag; "
    "racket; "
    "football; yoga mat; punching bag; barbell; roller skates; hammock; exercise bike; surfboard; basketball; "
    "skateboard",
    "books and hobbies": "book; guitar; piano; violin; board game; textbook; drum kit; vinyl record; painting; stamps; "
    "magazine; accordion; coin; easel; synthesizer; novel; dictionary; comic book; chess set; flute",
    "tools and garden": "drill; saw; hammer; lawn mower; ladder; screwdriver; shovel; wheelbarrow; toolbox; paint; "
    "rake; "
    "hose; greenhouse; door; window; chainsaw; generator; welding machine; axe; lamp; carpet; tiles; curtains; bathtub",
    "pets": "kitten; puppy; aquarium; dog; cat; parrot; hamster; cage; dog bed; dog collar; rabbit; fish tank; turtle; "
    "cat tree; horse; leash",
}
ITEMS_RU = {
    "транспорт": "велосипед; самокат; машина; мотоцикл; горный велосипед; электросамокат; лодка; прицеп; мопед; "
    "фургон; "
    "автомобиль; детский велосипед; снегоход; микроавтобус; трактор; катер; грузовик; скутер; квадроцикл; байдарка",
    "мебель": "диван; стул; стол; шкаф; кровать; кресло; письменный стол; книжный шкаф; полка; комод; журнальный "
    "столик; "
    "кухонный стол; офисное кресло; матрас; тумба; табурет; скамейка; стеллаж; угловой диван; зеркало; тахта; буфет",
    "электроника": "телефон; ноутбук; планшет; фотоаппарат; наушники; телевизор; монитор; клавиатура; принтер; "
    "колонка; "
    "смартфон; компьютер; приставка; умные часы; роутер; айфон; iPhone 12; телефон Samsung; радио; проектор; микрофон; "
    "мышь; видеокарта; дрон; электронная книга; зарядка; игровой ноутбук",
    "бытовая техника": "стиральная машина; холодильник; чайник; микроволновка; пылесос; духовка; утюг; тостер; "
    "блендер; "
    "посудомоечная машина; кофемашина; кондиционер; вентилятор; обогреватель; швейная машина; фен; плита; мультиварка",
    "одежда и обувь": "куртка; пальто; платье; сапоги; туфли; джинсы; рубашка; свитер; шапка; юбка; кроссовки; шарф; "
    "перчатки; костюм; футболка; шуба; брюки; кожаная куртка; свадебное платье; плащ; пуховик; ботинки; сумка; рюкзак",
    "товары для детей": "коляска; игрушка; кукла; детская кроватка; автокресло; машинка; плюшевый мишка; конструктор; "
    "стульчик; пазл; качели; манеж; слинг; кукольный домик; песочница; погремушка",
    "спорт и отдых": "лыжи; коньки; палатка; мяч; гантели; удочка; сноуборд; беговая дорожка; спальник; ракетка; гиря; "
    "футбольный мяч; коврик для йоги; боксёрская груша; штанга; ролики; гамак; велотренажёр; батут; скейтборд; турник",
    "книги и хобби": "книга; гитара; пианино; скрипка; настольная игра; учебник; барабаны; пластинка; картина; марки; "
    "журнал; баян; монета; мольберт; синтезатор; роман; словарь; комикс; шахматы; флейта",
    "ремонт и сад": "дрель; пила; молоток; газонокосилка; лестница; шуруповёрт; лопата; тачка; набор инструментов; "
    "краска; грабли; шланг; теплица; дверь; окно; бензопила; генератор; сварочный аппарат; топор; лампа; ковёр; "
    "плитка; "
    "шторы; ванна; люстра",
    "животные": "котёнок; щенок; аквариум; собака; кошка; попугай; хомяк; клетка; лежанка; ошейник; кролик; черепаха; "
    "когтеточка; лошадь; поводок; переноска",
}
COLOURS_EN = (
    "red orange yellow green blue purple pink brown black white grey gray silver gold beige turquoise navy cream "
    "dark_blue light_blue dark_green bright_red light_grey maroon violet khaki burgundy multicoloured red_colour "
    "blue_color green_colour black_color white_colour"
)
COLOURS_RU_STEMS = (
    "красн-ый жёлт-ый желт-ый зелён-ый зелен-ый бел-ый чёрн-ый черн-ый сер-ый розов-ый оранжев-ый фиолетов-ый "
    "коричнев-ый бежев-ый голуб-ой золот-ой бордов-ый серебрист-ый бирюзов-ый сиренев-ый тёмно-сер-ый тёмно-зелён-ый "
    "светло-сер-ый ярко-красн-ый разноцветн-ый син-ий тёмно-син-ий темно-син-ий"
)
CONDITIONS_EN = (
    "new; used; like new; good condition; excellent condition; perfect condition; fair condition; great condition; "
    "very good condition; as new; needs repair; brand new; hardly used; not working; well kept; bad condition; "
    "satisfactory condition; slightly worn; second hand; refurbished; mint condition; in good condition; unused; "
    "broken; "
    "old; working; works fine; excellent; good; fair; perfect; great; poor; damaged; in working order; in excellent "
    "condition; "
    "in perfect condition; almost new; nearly new; never used; gently used; fully working; vintage; worn; okay; clean"
)
CONDITIONS_RU = (
    "новый; б/у; как новый; хорошее состояние; отличное состояние; идеальное состояние; среднее состояние; "
    "удовлетворительное состояние; очень хорошее состояние; требует ремонта; почти новый; не работает; есть царапины; "
    "плохое состояние; в хорошем состоянии; в отличном состоянии; состояние хорошее; состояние отличное; "
    "нормальное состояние; в идеальном состоянии; новая; новое; новые; как новая; б у; на запчасти; после ремонта; бу; "
    "старый; старая; старое; рабочий; рабочая; в рабочем состоянии; целый; без дефектов; отличный; отличная; "
    "хороший; хорошая; "
    "хорошее; отличное; почти новая; почти новое; почти новые; не новый; не новая; исправен; в порядке; идеал; "
    "сломан; бывший "
    "в употреблении; состояние новое; состояние идеальное; рабочее состояние; потёртости; битый; в упаковке; не "
    "использовался"
)
DETAILS = {
    "en": (
        "size 42; size M; with a box; with charger; 16 GB; one owner; no scratches; made in Italy; bought in 2020; "
        "with warranty; "
        "for a child; wooden; leather; cotton; 2 metres; 15 kg; from a smoke-free home; with documents; model 2019; "
        "26 inch; metal; "
        "urgent; negotiable; pickup only; delivery possible; a gift; large; small; for two; with spare parts; no "
        "papers; cheap"
    ),
    "ru": (
        "размер 42; размер M; с коробкой; с зарядкой; 16 ГБ; один хозяин; без царапин; сделано в Италии; куплен в "
        "2020; на гарантии; "
        "детский; деревянный; кожаный; хлопок; 2 метра; 15 кг; с документами; модель 2019; 26 дюймов; металл; "
        "срочно; торг; "
        "самовывоз; есть доставка; подарок; большой; маленький; на двоих; с запчастями; без документов; недорого; "
        "раскладной"
    ),
}
BRANDS = (
    "Samsung; Sony; LG; Bosch; Apple; Xiaomi; Nike; Lenovo; Philips; IKEA; Honda; Toyota; Canon; Adidas; Stels; Asus"
)
RU_ENDINGS = {"ый": ("ый", "ая", "ое", "ые"), "ой": ("ой", "ая", "ое", "ые"), "ий": ("ий", "яя", "ее", "ие")}
ONSETS = {
    "en": "b c d f g h j k l m n p r s t v w z br cl cr dr fl gr pl pr qu sh sk sl sn sp st sw th tr ch wh".split(),
    "ru": "б в г д ж з к л м н п р с т ф х ц ч ш бр вр гл гр др зв кл кр пл пр св сл см ст тр хл шк щ".split(),
}
NUCLEI = {
    "en": "a e i o u a e i o u ai ea ee oo ou ie y io".split(),
    "ru": "а е и о у а е и о ы я ю ё э ай ой ей".split(),
}
CODAS = {
    "en": ["", "", "", *"n r l t s x m p d k g b ck ll nd nt rk st sh ng er on le".split()],
    "ru": ["", "", "", *"н р л т с к м п д в г б ч ш ль нт рк ст нь ка ник ец ок".split()],
}


def split_words(text: str) -> list[str]:
    """Split a `; `-separated word list into its phrases."""
    return [word.strip() for word in text.split(";") if word.strip()]


def colour_words(lang: str) -> list[str]:
    """Return every colour word of `lang` (for Russian in all four endings)."""
    if lang == "en":
        return [word.replace("_", " ") for word in COLOURS_EN.split()]
    words = []
    for entry in COLOURS_RU_STEMS.split():
        stem, ending = entry.rsplit("-", 1)
        words += [stem + form for form in RU_ENDINGS[ending]]
        words.append(stem + ("его" if ending == "ий" else "ого") + " цвета")
    return words


def category_of(lang: str) -> dict[str, str]:
    """Return the category of every known item of `lang`."""
    table = ITEMS_EN if lang == "en" else ITEMS_RU
    return {item: category for category, items in table.items() for item in split_words(items)}


ITEMS = {lang: sorted(category_of(lang)) for lang in ("en", "ru")}
COLOURS = {lang: sorted(set(colour_words(lang))) for lang in ("en", "ru")}
CONDITIONS = {"en": split_words(CONDITIONS_EN), "ru": split_words(CONDITIONS_RU)}


def common_word(rng: random.Random, lang: str) -> str:
    """Return an everyday word taken from the lists above, out of its context."""
    phrase = rng.choice((ITEMS[lang], CONDITIONS[lang], COLOURS[lang], split_words(DETAILS[lang])))
    return rng.choice(rng.choice(phrase).split())


def made_up_word(rng: random.Random, lang: str) -> str:
    """Make up a pronounceable word of one to four syllables, so that copying is learned and not a list of items."""
    count = rng.choices((1, 2, 3, 4), weights=(3, 5, 2, 1))[0]
    parts = [rng.choice(ONSETS[lang]) + rng.choice(NUCLEI[lang]) + rng.choice(CODAS[lang]) for _ in range(count)]
    word = "".join(parts)
    return word if rng.random() < 0.8 else rng.choice(NUCLEI[lang]) + word


def random_letters(rng: random.Random, lang: str) -> str:
    """Return 3 to 9 letters in no order at all: the hardest word to copy."""
    letters = "abcdefghijklmnopqrstuvwxyz" if lang == "en" else "абвгдежзийклмнопрстуфхцчшщыьэюя"
    return "".join(rng.choice(letters) for _ in range(rng.randint(3, 9)))
